//! One suite for every backend: what the engine relies on, whatever runs below.
//!
//! The cases are plain functions over `&mut dyn Backend`; the macro at the end runs each of them on the rich
//! ring, the plain ring and the poller.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod bed;
#[path = "conformance/cases_files.rs"]
mod cases_files;
#[path = "conformance/cases_sockets.rs"]
mod cases_sockets;
#[path = "conformance/cases_turns.rs"]
mod cases_turns;
#[path = "conformance/cases_zero_copy.rs"]
mod cases_zero_copy;

macro_rules! suite {
    ($($module:ident :: $case:ident,)*) => {
        mod ring_rich { $(
            #[test]
            fn $case() { crate::bed::on_ring(sys::Tier::Rich, crate::$module::$case); }
        )* }
        mod ring_plain { $(
            #[test]
            fn $case() { crate::bed::on_ring(sys::Tier::Plain, crate::$module::$case); }
        )* }
        mod poll { $(
            #[test]
            fn $case() { crate::bed::on_poll(crate::$module::$case); }
        )* }
    };
}

suite! {
    cases_sockets::a_stream_arrives_in_order_and_in_one_piece_across_the_wrap,
    cases_sockets::tiny_and_huge_writes_arrive_alike,
    cases_sockets::initial_bytes_stand_first_and_are_announced,
    cases_sockets::consuming_initial_bytes_early_is_not_the_end,
    cases_sockets::a_ring_full_of_initial_bytes_goes_on_after_consuming,
    cases_sockets::the_end_of_a_stream_is_told_once_after_its_bytes,
    cases_sockets::a_reset_is_a_fault_of_the_peer,
    cases_sockets::an_unread_ring_stops_receiving_and_resumes,
    cases_sockets::a_reader_may_wait_for_half_the_ring,
    cases_sockets::a_gathering_send_arrives_in_order,
    cases_sockets::a_second_send_or_receive_is_refused_while_one_is_in_flight,
    cases_sockets::sending_and_receiving_at_once,
    cases_sockets::an_exact_receive_may_be_short_and_zero_at_the_end,
    cases_sockets::sending_to_a_closed_peer_is_a_fault_not_a_signal,
    cases_sockets::removing_a_socket_ends_its_operations_and_closes_it,
    cases_sockets::removing_a_stream_socket_silences_it,
    cases_sockets::stale_ids_are_refused,
    cases_sockets::sockets_come_and_go_without_leaks,
    cases_sockets::only_streams_are_taken_and_only_so_many,
    cases_sockets::many_streams_at_once,
    cases_sockets::tcp_streams_work_like_unix_ones,
    cases_zero_copy::what_a_zero_copy_send_carries_arrives_in_order,
    cases_zero_copy::a_unix_socket_sends_as_usual,
    cases_files::data_written_directly_is_read_back_both_ways,
    cases_files::a_buffered_write_needs_no_alignment,
    cases_files::a_read_across_the_end_is_short,
    cases_files::a_misaligned_direct_write_is_invalid,
    cases_files::zeroed_ranges_read_as_zeroes,
    cases_files::a_flush_covers_both_descriptors,
    cases_files::writing_to_a_source_is_a_fault,
    cases_files::many_operations_at_once_complete_each_with_its_own_memory,
    cases_files::a_removed_file_finishes_its_operations_first,
    cases_files::leases_of_another_arena_work,
    cases_turns::a_full_queue_gives_the_operation_back,
    cases_turns::waiting_ends_at_its_time,
    cases_turns::a_wake_from_another_thread_ends_waiting,
    cases_turns::a_wake_before_waiting_is_not_lost,
    cases_turns::a_message_sent_before_waking_is_seen_after_it,
    cases_turns::waiting_returns_at_once_while_completions_wait,
    cases_turns::dropping_gives_all_leases_back,
    cases_turns::dropping_releases_files_at_once,
    cases_turns::a_backend_may_move_to_the_thread_that_uses_it,
}

/// What only a ring can be asked.
macro_rules! rings {
    ($($case:ident,)*) => {
        mod zero_copy { $(
            mod $case {
                #[test]
                fn rich() { crate::cases_zero_copy::on_ring(sys::Tier::Rich, crate::cases_zero_copy::$case); }
                #[test]
                fn plain() { crate::cases_zero_copy::on_ring(sys::Tier::Plain, crate::cases_zero_copy::$case); }
            }
        )* }
    };
}

rings! {
    the_next_send_need_not_wait_for_the_memory,
    memory_stays_with_the_kernel_until_its_notification,
    a_closed_socket_keeps_the_memory_until_all_was_delivered,
    a_reset_gives_the_memory_back,
    dropping_the_ring_waits_for_the_memory,
    memory_that_the_kernel_keeps_is_leaked_and_not_reused,
}
