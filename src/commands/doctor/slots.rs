//! The numbers of slots, which servers do not report.

use super::report::Level::Note;
use super::report::Report;
use super::server::Facts;
use crate::settings::{Settings, SlotRule};

pub(super) fn report(settings: &Settings, servers: &[Facts], report: &mut Report) {
    let slots = settings.backends.slots_of_each();
    let urls = settings.backends.urls.iter().zip(slots);
    for (address, slots) in urls {
        let mut its = servers
            .iter()
            .filter(|server| server.address.configured() == *address);
        let Some(server) = its.find(|server| server.answers.is_ok()) else {
            continue;
        };
        let host = server.address.host();
        let (program, change) = match (address.is_openai(), slots) {
            (false, SlotRule::Count(slots)) => (
                "Ollama",
                format!(
                    "compare: {slots} slots here, as many as OLLAMA_NUM_PARALLEL in the environment of \
                     Ollama on {host} (1 if it is not set)"
                ),
            ),
            (false, SlotRule::Learn | SlotRule::Off) => (
                "Ollama",
                "set LLAMATOWER_SLOTS to its OLLAMA_NUM_PARALLEL, so that requests wait where they are \
                 ordered and seen"
                    .to_owned(),
            ),
            (true, SlotRule::Count(slots)) => (
                "the server",
                format!(
                    "compare: {slots} slots here, as many as the server on {host} runs at the same time \
                     (--max-num-seqs of vLLM, --parallel of llama.cpp)"
                ),
            ),
            (true, SlotRule::Learn | SlotRule::Off) => (
                "the server",
                "set its slots in LLAMATOWER_SLOTS to what it runs at the same time (--max-num-seqs of \
                 vLLM, --parallel of llama.cpp), so that requests wait where they are ordered and seen"
                    .to_owned(),
            ),
        };
        let found = format!(
            "LLAMATOWER_SLOTS is {slots}; {program} does not say how many requests it runs at the same time"
        );
        report.add(Note, "slots_unseen", address.to_string(), found, change);
    }
}
