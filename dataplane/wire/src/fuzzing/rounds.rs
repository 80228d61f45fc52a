//! A whole handshake between our two halves, cut into pieces.

use super::dice::Dice;
use crate::{
    ClientHandshake, ClientHandshakeConfig, ClientHandshakeEvent, ClientParams, ExportInfo,
    ServerHandshake, ServerHandshakeConfig, ServerHandshakeEvent, ServerParams,
};

/// How a handshake went.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) server: Option<ServerParams>,
    pub(super) client: Option<ClientParams>,
    /// What the client learnt instead of opening an export.
    pub(super) other: Option<ClientHandshakeEvent>,
}

/// Runs both machines against each other until neither has anything to say.
pub(super) fn shake_hands(
    server: ServerHandshakeConfig,
    client: ClientHandshakeConfig,
    info: &ExportInfo,
    dice: &mut Dice,
) -> Round {
    let mut server = ServerHandshake::new(server);
    let mut client = ClientHandshake::new(client);
    let mut round = Round::default();
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    loop {
        to_client.extend(server.take_output());
        to_server.extend(client.take_output());
        let mut is_quiet = to_client.is_empty() && to_server.is_empty();
        let count = dice.below(24) + 1;
        let piece: Vec<u8> = to_client.drain(..count.min(to_client.len())).collect();
        let used = client.handle_input(&piece).expect("our server speaks well");
        let is_over = round.client.is_some() || round.other.is_some();
        assert!(
            used == piece.len() || is_over,
            "a client takes what a lockstep server sends"
        );
        let count = dice.below(24) + 1;
        let piece: Vec<u8> = to_server.drain(..count.min(to_server.len())).collect();
        let used = server.handle_input(&piece).expect("our client speaks well");
        assert!(
            used == piece.len(),
            "a server takes what a lockstep client sends"
        );
        if let Some(event) = server.poll_event() {
            is_quiet = false;
            serve(&mut server, event, info, &mut round);
        }
        if let Some(event) = client.poll_event() {
            is_quiet = false;
            match event {
                ClientHandshakeEvent::StartTls => {
                    client
                        .tls_established(0)
                        .expect("the server has said nothing");
                }
                ClientHandshakeEvent::Done(params) => round.client = Some(params),
                other => round.other = Some(other),
            }
        }
        if is_quiet {
            return round;
        }
    }
}

fn serve(
    server: &mut ServerHandshake,
    event: ServerHandshakeEvent,
    info: &ExportInfo,
    round: &mut Round,
) {
    match event {
        ServerHandshakeEvent::ExportQuery { name, .. } if name == "disk" => {
            server.answer_export(Ok(info.clone()));
        }
        ServerHandshakeEvent::ExportQuery { .. } => {
            server.answer_export(Err(crate::ExportRefusal::Unknown));
        }
        ServerHandshakeEvent::ListQuery => {
            server.answer_list(Ok(&[("disk".to_owned(), info.description.clone())]));
        }
        ServerHandshakeEvent::StartTls => {
            server
                .tls_established(0)
                .expect("the client has said nothing");
        }
        ServerHandshakeEvent::Done(params) => round.server = Some(params),
        ServerHandshakeEvent::Aborted | ServerHandshakeEvent::Terminate(_) => {}
    }
}
