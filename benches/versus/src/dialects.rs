//! The cost of a line of an OpenAI-compatible server beside that of a line of an Ollama server.

use std::fmt::Write as _;

use crate::{
    contenders::{Contender, OLLAMA, OPENAI},
    report::Report,
    shapes::Dialect,
};

/// The gateway with clients of one dialect, before servers of one kind.
struct Pass {
    name: &'static str,
    title: &'static str,
    dialect: Dialect,
    servers: &'static str,
    /// The one that it is compared with.
    base: &'static str,
}

const PASSES: [Pass; 4] = [
    Pass {
        name: "v1-ollama",
        title: "`/v1/chat/completions` of Ollama, passed",
        dialect: Dialect::OpenAi,
        servers: OLLAMA,
        base: "v1-ollama",
    },
    Pass {
        name: "v1-openai",
        title: "`/v1/chat/completions` of an OpenAI-compatible server, passed",
        dialect: Dialect::OpenAi,
        servers: OPENAI,
        base: "v1-ollama",
    },
    Pass {
        name: "chat-ollama",
        title: "`/api/chat` of Ollama, passed",
        dialect: Dialect::OllamaChat,
        servers: OLLAMA,
        base: "chat-ollama",
    },
    Pass {
        name: "chat-openai",
        title: "`/api/chat` of an OpenAI-compatible server, translated",
        dialect: Dialect::OllamaChat,
        servers: OPENAI,
        base: "chat-ollama",
    },
];

/// The gateway in each role.
pub(crate) fn contenders(gateway: &Contender) -> [Contender; PASSES.len()] {
    PASSES.map(|pass| gateway.between(pass.name, pass.dialect, pass.servers))
}

/// A table for each shape: the CPU time for each request, and with paced streams for each line.
pub(crate) fn table(report: &Report) -> String {
    let mut text = String::new();
    for shape in report.shapes() {
        let unit = shape.unit();
        // Writing to a `String` cannot fail.
        writeln!(
            text,
            "| {} | CPU for a {unit}, µs | of Ollama's |\n|---|---:|---:|",
            shape.title
        )
        .ok();
        for pass in &PASSES {
            let cpu = report.spread(shape.name, pass.name, |sample| sample.cpu);
            let ratio = report.ratio_to(pass.base, shape.name, pass.name, |sample| sample.cpu);
            if let Some((cpu, ratio)) = cpu.zip(ratio) {
                let (cpu, ratio) = (cpu.text(1), ratio.text(2));
                writeln!(text, "| {} | {cpu} | {ratio} |", pass.title).ok();
            }
        }
        text.push('\n');
    }
    text += report.disturbance().trim_start();
    for note in &report.notes {
        write!(text, "\n{note}\n").ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::Sample;

    #[test]
    fn a_line_is_compared_with_that_of_ollama_in_the_same_round() {
        let sample = |contender, round, cpu| Sample {
            round,
            shape: "burst",
            contender,
            cpu: Some(cpu),
            ..Sample::default()
        };
        let report = Report {
            samples: vec![
                sample("chat-ollama", 0, 10.0),
                sample("chat-openai", 0, 20.0),
                sample("chat-ollama", 1, 20.0),
                sample("chat-openai", 1, 30.0),
            ],
            contenders: contenders(&Contender::fake("llamatower", "1.0.0")).into(),
            machine: "a machine".to_owned(),
            notes: Vec::new(),
            rounds: 2,
            seconds: 1.0,
        };
        let table = table(&report);
        let translated = "translated | 25.0 (20.0–30.0) | 1.75 (1.50–2.00) |";
        assert!(table.contains(translated), "{table}");
        assert!(!table.contains("`/v1"), "not measured: {table}");
    }
}
