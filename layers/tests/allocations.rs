//! The allocations of each layer: some for each request, none for each chunk.
//!
//! The test counts the allocations that the layer adds to the same service without it. The passes
//! are those of the bench `layers`: each chunk is pending once, like a token.

#[path = "../benches/layers/exchange.rs"]
mod exchange;
#[path = "../benches/layers/subject.rs"]
mod subject;
#[path = "../benches/layers/subjects.rs"]
mod subjects;

use std::time::Duration;

use exchange::{Backend, ClientBody, is_served, request};
use http::{Request, Uri};
use llamatower_layers::EndpointTable;
use llamatower_layers::body::MemoryBudget;
use llamatower_layers::body_limit::{BodyLimitLayer, BodyRule};
use llamatower_layers::cache::CacheLayer;
use llamatower_layers::clocks::StreamClocksLayer;
use llamatower_layers::endpoint::EndpointLayer;
use llamatower_layers::heartbeat::HeartbeatLayer;
use subject::Subject;
use tokio::runtime::Builder;
use tower_layer::Layer;

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
        subject.backend().set_chunks(chunks);
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

/// The allocations of a pass with `few` and with 1000 chunks, after what serves many requests is done.
fn allocations_from(few: usize, backend: &Backend, pass: impl Fn()) -> [u64; 2] {
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let _in_runtime = runtime.enter();
    (0..3).for_each(|_| pass());
    [few, 1000].map(|chunks| {
        backend.set_chunks(chunks);
        allocation_counter::measure(&pass).count_total
    })
}

fn allocations_by_chunks(backend: &Backend, pass: impl Fn()) -> [u64; 2] {
    allocations_from(1, backend, pass)
}

#[test]
fn no_layer_allocates_for_a_chunk() {
    for subject in subjects::all() {
        let [few, many] = allocations_by_chunks(subject.backend(), || subject.pass());
        assert_eq!(few, many, "{}: allocations by chunks", subject.name());
    }
}

/// The bodies find the end, the usage and errors in each framing in another way. The list of the last
/// events, which has the usage in it, has its size after some of them.
#[test]
fn no_layer_allocates_for_a_chunk_of_another_framing() {
    const SSE: &str = "text/event-stream";
    const DELTA: &[u8] = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    const DONE: &[u8] = b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1,\"total_tokens\":2}}\n\ndata: [DONE]\n\n";
    const EVENT: &[u8] = b"event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":1,\"delta\":\"a\"}\n\n";
    const COMPLETED: &[u8] = b"event: response.completed\ndata: {\"type\":\"response.completed\",\"sequence_number\":2,\"response\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n";
    const BLOCK: &[u8] = b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n";
    const STOP: &[u8] = b"event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":1}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    for (path, content_type, line, last) in [
        ("/v1/chat/completions", SSE, DELTA, DONE),
        ("/v1/responses", SSE, EVENT, COMPLETED),
        ("/v1/messages", SSE, BLOCK, STOP),
        ("/api/show", "application/octet-stream", b"0123456789", b"9"),
    ] {
        let mut request = request();
        *request.uri_mut() = Uri::from_static(path);
        let backend = Backend::answering(content_type, line, last);
        let stack = subjects::stack_around(path, request, backend);
        let [few, many] = allocations_from(100, stack.backend(), || stack.pass());
        assert_eq!(few, many, "{path}: allocations by chunks");
    }
}

#[test]
fn a_stream_with_heartbeats_does_not_allocate_for_a_chunk() {
    let backend = Backend::default();
    let heartbeats = HeartbeatLayer::new(Duration::from_secs(60)).with_requests(|_| true);
    let service = heartbeats.layer(backend.clone());
    let [few, many] = allocations_by_chunks(&backend, || {
        assert!(is_served(service.clone(), request()));
    });
    assert_eq!(few, many);
}

/// The body of an upload passes the read time-out of the limit and the signal of the clocks.
#[test]
fn no_layer_allocates_for_a_chunk_of_a_streamed_request() {
    let backend = Backend::default();
    let uploads = BodyLimitLayer::new(MemoryBudget::new(1 << 20)).with_rule(|_| BodyRule::Stream);
    let service = uploads.layer(StreamClocksLayer::new().layer(backend.clone()));
    let [few, many] = allocations_by_chunks(&backend, || {
        let upload = Request::post("/api/blobs/sha256:00").body(backend.lines());
        assert!(is_served(service.clone(), upload.expect("a valid request")));
    });
    assert_eq!(few, many);
}

/// A stored answer is sent without an allocation for a chunk; storing it appends to one list.
#[test]
fn cache_allocates_for_no_chunk_of_a_hit_and_only_its_list_for_a_miss() {
    let passes = |chunks: usize| {
        let backend = Backend::default();
        backend.set_chunks(chunks);
        let limit = BodyLimitLayer::new(MemoryBudget::new(1 << 20));
        let cache = CacheLayer::new(1 << 30, |_| Some("v1".into()));
        let inner = limit.layer(cache.layer(backend));
        let service = EndpointLayer::new(EndpointTable::ollama()).layer(inner);
        let deterministic = || {
            let request = Request::post("/api/generate");
            let body = r#"{"model":"tiny","prompt":"a","options":{"temperature":0}}"#;
            request
                .body(ClientBody::from(body))
                .expect("a valid request")
        };
        [(); 2].map(|()| {
            let pass = || assert!(is_served(service.clone(), deterministic()));
            allocation_counter::measure(pass).count_total
        })
    };
    let ([few_miss, few_hit], [many_miss, many_hit]) = (passes(1), passes(1000));
    assert_eq!(few_hit, many_hit, "a hit");
    assert!(few_hit < few_miss, "the second pass is a hit");
    // The list doubles its capacity.
    assert!(many_miss - few_miss <= 10, "{few_miss}, {many_miss}");
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

/// For a response that streams also a copy of the path, so that it does not keep the head's buffer.
#[test]
fn outcome_allocates_its_record() {
    allocates(&subjects::outcome(), 2);
}

#[test]
fn rescue_allocates_its_data_of_the_request() {
    allocates(&subjects::rescue(), 1);
}

#[test]
fn api_key_allocates_the_identity_in_the_extensions() {
    allocates(&subjects::api_key(), 1);
}

/// The state of the bucket is in a box, which keeps the future small where the limit is off.
#[test]
fn rate_limit_allocates_the_value_of_its_header_and_the_state_of_its_bucket() {
    allocates(&subjects::rate_limit_global(), 2);
    allocates(&subjects::rate_limit_per_key(), 2);
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
    allocates(&subjects::stack(), 36);
}

/// The shared report, and the extensions of an answer that had none.
#[test]
fn usage_allocates_its_report() {
    allocates(&subjects::usage(), 4);
}

/// The states of its budgets, their two headers, and the settlement in its box; and the request while the
/// store is called, which would otherwise make each outer future as large.
#[test]
fn token_limit_allocates_its_headers_and_settlement() {
    allocates(&subjects::token_limit(), 6);
}

/// The request is read to find that its answer cannot be cached.
#[test]
fn cache_allocates_the_parsed_request() {
    allocates(&subjects::cache(), 5);
}
