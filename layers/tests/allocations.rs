//! The allocations of each layer: some for each request, none for each chunk.
//!
//! The test counts the allocations that the layer adds to the same service without it. The passes
//! are those of the bench `layers`: each chunk is pending once, like a token.

#[path = "../benches/layers/subject.rs"]
mod subject;
#[path = "../benches/layers/subjects.rs"]
mod subjects;

use subject::Subject;
use tokio::runtime::Builder;

/// Checks that the layer allocates `expected` times for a request, whatever the number of chunks in
/// its answer.
#[track_caller]
fn allocates(subject: &Subject, expected: u64) {
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let _in_runtime = runtime.enter();
    // Allocations that serve many requests are done after the first pass.
    (0..3).for_each(|_| {
        subject.pass();
        subject.pass_without();
    });
    let counted = [0, 1, 10, 1000].map(|chunks| {
        subject.set_chunks(chunks);
        let with = allocation_counter::measure(|| subject.pass());
        let without = allocation_counter::measure(|| subject.pass_without());
        assert_eq!(with.count_current, 0, "a pass frees its allocations");
        with.count_total.checked_sub(without.count_total)
    });
    assert_eq!(
        counted,
        [Some(expected); 4],
        "allocations of {} for a request with 0, 1, 10 and 1000 chunks",
        subject.name()
    );
}

#[test]
fn no_layer_allocates_for_a_chunk() {
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let _in_runtime = runtime.enter();
    for subject in subjects::all() {
        (0..3).for_each(|_| subject.pass());
        let [few, many] = [1, 1000].map(|chunks| {
            subject.set_chunks(chunks);
            allocation_counter::measure(|| subject.pass()).count_total
        });
        assert_eq!(few, many, "{}: allocations by chunks", subject.name());
    }
}

#[test]
fn layers_that_only_read_or_count_do_not_allocate() {
    allocates(&subjects::adaptive(), 0);
    allocates(&subjects::admission(), 0);
    allocates(&subjects::breaker(), 0);
    allocates(&subjects::heartbeat(), 0);
    allocates(&subjects::panic_guard(), 0);
    allocates(&subjects::queue(), 0);
    allocates(&subjects::route(), 0);
}

#[test]
fn endpoint_allocates_the_extension_that_layers_share() {
    allocates(&subjects::endpoint(), 1);
}

#[test]
fn outcome_allocates_its_record() {
    allocates(&subjects::outcome(), 1);
}

#[test]
fn rescue_allocates_its_data_of_the_request() {
    allocates(&subjects::rescue(), 1);
}

#[test]
fn api_key_allocates_the_identity_in_the_extensions() {
    allocates(&subjects::api_key(), 1);
}

#[test]
fn rate_limit_allocates_the_value_of_its_header() {
    allocates(&subjects::rate_limit_global(), 1);
    allocates(&subjects::rate_limit_per_key(), 1);
}

/// The limit also allocates its future; otherwise each outer future would be as large as a request
/// with its body.
#[test]
fn body_limit_allocates_the_buffer_that_replays_share() {
    allocates(&subjects::body_limit(), 2);
}

#[test]
fn llm_request_allocates_the_models_name() {
    allocates(&subjects::llm_request(), 1);
}

/// Its future, the count of attempts, and a copy of the head for a later attempt: two for the
/// headers, two for the extensions and one for each of two.
#[test]
fn retry_allocates_for_a_copy_of_the_head() {
    allocates(&subjects::retry(), 8);
}

/// The signal that the request was sent and the timer have different owners.
#[test]
fn clocks_allocate_a_signal_and_a_timer() {
    allocates(&subjects::clocks(), 2);
}

/// The sum of all layers, and some more: the copy of the extensions for a retry contains one more,
/// and the headers of the second limit stand beside those of the first.
#[test]
fn a_stack_allocates_as_much_as_its_layers() {
    allocates(&subjects::stack(), 38);
}

/// The shared report, and the extensions of an answer that had none.
#[test]
fn usage_allocates_its_report() {
    allocates(&subjects::usage(), 4);
}

/// The states of its budgets, their two headers, and the settlement; and the request while the
/// store is called, which would otherwise make each outer future as large.
#[test]
fn token_limit_allocates_its_headers_and_settlement() {
    allocates(&subjects::token_limit(), 5);
}

/// The request is read to find that its answer cannot be cached.
#[test]
fn cache_allocates_the_parsed_request() {
    allocates(&subjects::cache(), 11);
}
