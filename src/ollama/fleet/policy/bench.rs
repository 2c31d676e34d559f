//! A fleet for the benchmark of the choice.

use std::time::Duration;

use llamatower_layers::ModelName;
use tokio::time::Instant;

use super::{
    Ask, Availability, FlightId, InMemory, Phases, Policy, Report, ServerId, ServerSpec, View,
};

const BYTES: u64 = 8_000_000_000;
/// The slots of each server.
const SLOTS: u32 = 4;

/// A fleet for the benchmark of the choice. It is not part of the interface of this crate.
#[derive(Debug)]
pub struct ChoiceBench {
    policy: Policy,
    model: ModelName,
    now: Instant,
}

impl ChoiceBench {
    /// Servers that have two models, with two requests each, and measured speeds. The first of
    /// every `every` servers has the model of the choice in memory, the others have the other one.
    ///
    /// # Panics
    /// Never: the names of the models are valid.
    pub fn new(servers: usize, every: usize) -> Self {
        let [model, other] = ["asked", "other"].map(|name| match ModelName::parse(name) {
            Ok(name) => name,
            Err(error) => unreachable!("{error}"),
        });
        let mut bench = Self {
            policy: Policy::with_seed(1),
            model: model.clone(),
            now: Instant::now(),
        };
        let installed = [(model.clone(), BYTES), (other.clone(), BYTES)];
        for server in 0..servers {
            let spec = ServerSpec {
                slots: Some(SLOTS),
                ..ServerSpec::new(format!("server-{server}").into())
            };
            let id = bench.policy.add_server(spec);
            bench.policy.set_installed(id, &installed);
            let in_memory = match server % every {
                0 => &model,
                _ => &other,
            };
            let row = InMemory {
                model: in_memory.clone(),
                bytes: BYTES,
                context: None,
                expires: bench.now.checked_add(Duration::from_secs(300)),
            };
            let now = bench.now;
            bench.policy.set_residents(id, Some(&[row]), now, now);
        }
        for _ in 0..2 * servers {
            for name in [&model, &other] {
                bench.serve(name);
            }
        }
        for _ in 0..2 * servers.div_ceil(every) {
            bench.begin(&model.clone());
        }
        bench
    }

    /// The choice for one request, and its end.
    pub fn choose(&mut self) {
        let model = self.model.clone();
        if let Some(flight) = self.begin(&model) {
            self.policy.end(&model, flight, None, self.now);
        }
    }

    fn begin(&mut self, model: &ModelName) -> Option<FlightId> {
        self.now += Duration::from_millis(1);
        let ask = Ask {
            prompt_tokens: 1000.0,
            output_tokens: Some(100.0),
            ..Ask::arriving(model, self.now)
        };
        let healthy = |_: ServerId| {
            Some(View {
                availability: Availability::Healthy,
                was_tried: false,
                is_trial: false,
            })
        };
        Some(self.policy.choose(&ask, healthy)?.flight)
    }

    fn serve(&mut self, model: &ModelName) {
        let Some(flight) = self.begin(model) else {
            return;
        };
        self.policy.first_byte(model, flight, self.now);
        let [prompt, output] = [1, 2].map(Duration::from_secs);
        let report = Report {
            prompt_tokens: 1000,
            output_tokens: 100,
            phases: Some(Phases {
                load: Duration::ZERO,
                prompt,
                output,
                total: prompt + output,
            }),
        };
        self.policy.end(model, flight, Some(report), self.now);
    }
}
