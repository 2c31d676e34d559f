//! How busy a server is, from its Prometheus page (`/metrics`).
//!
//! vLLM has the gauges `vllm:num_requests_running` and `vllm:num_requests_waiting` (its documentation,
//! "Production Metrics"), llama.cpp's server with `--metrics` has `llamacpp:requests_processing` and
//! `llamacpp:requests_deferred` (its README). A server with several engines or models has a sample for
//! each; the sums count.
//!
//! Only four names of a line-based format are needed. The crate for it (prometheus-parse) brings chrono
//! and regex, and had its last release in 2023, so the lines are read here.

use crate::ollama::fleet::ReportedLoad;

const RUNNING: [&str; 2] = ["vllm:num_requests_running", "llamacpp:requests_processing"];
const WAITING: [&str; 2] = ["vllm:num_requests_waiting", "llamacpp:requests_deferred"];

/// Reads a page; `None` if it lacks one of the gauges, or a value of them is no number of requests.
pub fn read(page: &str) -> Option<ReportedLoad> {
    let (mut running, mut waiting) = (None, None);
    for (name, value) in page.lines().filter_map(sample) {
        let sum = match name {
            name if RUNNING.contains(&name) => &mut running,
            name if WAITING.contains(&name) => &mut waiting,
            _ => continue,
        };
        *sum = Some(u32::saturating_add(sum.unwrap_or(0), count(value)?));
    }
    Some(ReportedLoad {
        running: running?,
        waiting: waiting?,
    })
}

/// Whether a page has metrics of any kind.
pub fn is_page(page: &str) -> bool {
    page.lines().any(|line| line.starts_with("# TYPE "))
}

/// The name and the value of a sample: `name{label="text",..} value [time]`.
fn sample(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
    let (name, rest) = line.split_at(end);
    let rest = match rest.strip_prefix('{') {
        Some(labels) => after_labels(labels)?,
        None => rest,
    };
    Some((name, rest.split_ascii_whitespace().next()?))
}

/// What follows the labels. Their texts are quoted, and may contain braces and escaped quotes.
fn after_labels(labels: &str) -> Option<&str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (place, byte) in labels.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b'}' if !is_quoted => return labels.get(place + 1..),
            _ => {}
        }
    }
    None
}

/// A number of requests. Gauges are floating-point numbers.
fn count(value: &str) -> Option<u32> {
    let value: f64 = value.parse().ok()?;
    let is_count = value.is_finite() && value >= 0.0 && value <= f64::from(u32::MAX);
    is_count.then_some(value as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(running: u32, waiting: u32) -> Option<ReportedLoad> {
        Some(ReportedLoad { running, waiting })
    }

    #[test]
    fn the_gauges_of_vllm_are_summed_over_engines_and_models() {
        let page = "# HELP vllm:num_requests_running Number of requests in model execution batches.\n\
            # TYPE vllm:num_requests_running gauge\n\
            vllm:num_requests_running{engine=\"0\",model_name=\"a} 7 \\\" b\"} 3.0\n\
            vllm:num_requests_running{engine=\"1\",model_name=\"a\"} 2.0 1720000000000\n\
            # TYPE vllm:num_requests_waiting gauge\n\
            vllm:num_requests_waiting{engine=\"0\"} 4.0\n\
            vllm:num_requests_waiting_by_reason{reason=\"capacity\"} 9.0\n";
        assert_eq!(read(page), load(5, 4));
    }

    #[test]
    fn the_gauges_of_llama_cpp_have_no_labels() {
        let page = "# TYPE llamacpp:requests_processing gauge\r\n\
            llamacpp:requests_processing 1\r\nllamacpp:requests_deferred 46\r\n";
        assert_eq!(read(page), load(1, 46));
    }

    #[test]
    fn a_page_without_both_gauges_or_with_another_value_tells_nothing() {
        for page in [
            "",
            "<html>",
            "vllm:num_requests_running 1\n",
            "vllm:num_requests_waiting",
            "vllm:num_requests_running{a=\"b\n vllm:num_requests_waiting 1\n",
            "llamacpp:requests_processing 1\nllamacpp:requests_deferred NaN\n",
            "llamacpp:requests_processing -1\nllamacpp:requests_deferred 0\n",
            "llamacpp:requests_processing +Inf\nllamacpp:requests_deferred 0\n",
            "llamacpp:requests_processing x\nllamacpp:requests_deferred 0\n",
        ] {
            assert_eq!(read(page), None, "{page}");
        }
        assert!(is_page("# TYPE a gauge\na 1\n"));
        assert!(!is_page("{\"error\":\"Unexpected endpoint\"}"));
    }
}
