//! Goldens of the help texts, and what the parser refuses.

use clap::{CommandFactory, Parser};

use super::*;

/// Help of one verb, as `--help` prints it on a terminal of 100 columns.
fn help_of(path: &[&str]) -> String {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut found = &mut command;
    for name in path {
        found = found.find_subcommand_mut(name).unwrap();
    }
    found.render_long_help().to_string()
}

#[test]
fn the_help_lists_the_exit_codes_of_the_table() {
    for exit in control::Exit::ALL {
        let line = format!("{:>2}  {}", exit.code(), exit.meaning());
        assert!(EXIT_CODES.contains(&line), "{line:?} in {EXIT_CODES}");
    }
}

#[test]
fn the_command_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn the_help_of_every_verb_of_this_file_is_the_golden_one() {
    for (name, path) in [
        ("copy", &["copy"][..]),
        ("info", &["info"]),
        ("probe", &["probe"]),
        ("pki_init", &["pki", "init"]),
        ("pki_issue_client", &["pki", "issue-client"]),
    ] {
        insta::assert_snapshot!(format!("help_{name}"), help_of(path));
    }
}

#[test]
fn wrong_words_are_refused_before_anything_runs() {
    let cases: [&[&str]; 10] = [
        &["copy"],
        &["copy", "a"],
        &["copy", "a", "b", "c"],
        &["copy", "a", "b", "--progress", "loud"],
        &["copy", "a", "b", "--request-size", "1KB"],
        &["copy", "a", "b", "--request-timeout", "0"],
        &["copy", "-a", "b"],
        &["info", "a", "--map", "--list"],
        &["pki", "init", "d"],
        &["unknown"],
    ];
    for words in cases {
        let words = ["migratekit-dataplane"].iter().chain(words);
        assert!(
            Cli::try_parse_from(words.clone()).is_err(),
            "{:?}",
            words.collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_dash_in_front_can_be_given_behind_two_dashes_and_is_refused_by_name() {
    let cli = Cli::try_parse_from(["migratekit-dataplane", "info", "--", "-x"]).unwrap();
    let Verb::Info(args) = cli.verb else { panic!() };
    let error = crate::uri::Uri::from_os(&args.uri).unwrap_err();
    assert!(error.into_failure("-x").to_string().contains("./-x"));
}

#[test]
fn the_page_of_the_command_line_names_every_flag_of_every_verb() {
    let page = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/interfaces/command-line.md"
    );
    let page = std::fs::read_to_string(page).unwrap();
    let mut commands = vec![Cli::command()];
    while let Some(command) = commands.pop() {
        for name in command.get_arguments().filter_map(clap::Arg::get_long) {
            let flag = format!("`--{name}");
            let known = page.contains(&flag) || matches!(name, "help" | "version");
            assert!(known, "{} --{name} is not in the page", command.get_name());
        }
        commands.extend(command.get_subcommands().cloned());
    }
}
