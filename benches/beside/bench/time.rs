//! The time of each pass, measured by criterion in rounds that alternate between the sides.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use criterion::Criterion;
use llamatower_beside::{Costs, median};

use super::exchange::Backend;
use super::side::{Case, Group, Pass, dropped};
use super::{CHUNKS, Name, sides};

/// The number of rounds. Other load on the machine affects all sides of a round about equally.
const ROUNDS: usize = 3;

/// A side, its case, and the number of chunks.
type Key = (Name, Case, usize);

/// The median time of each pass in each round, in nanoseconds.
pub(crate) struct Times {
    by_key: HashMap<Key, Vec<f64>>,
    /// The harness's own part of a refused request.
    dropped: f64,
}

impl Times {
    /// The nanoseconds that a side adds: the median over the rounds of the difference in a round.
    pub(crate) fn costs(&self, name: Name) -> Option<Costs> {
        let rounds = |case, chunks| self.by_key.get(&(name, case, chunks));
        let added = |chunks| {
            let with = rounds(Case::With, chunks)?.iter();
            let pairs = with.zip(rounds(Case::Without, chunks)?);
            let differences: Vec<_> = pairs.map(|(with, without)| with - without).collect();
            Some(median(&differences))
        };
        let request = added(0)?;
        Some(Costs {
            request,
            refused: rounds(Case::Refused, 0).map(|rounds| median(rounds) - self.dropped),
            chunk: (added(CHUNKS)? - request) / CHUNKS as f64,
        })
    }
}

pub(crate) fn measure(groups: &[Group], backend: &Backend) -> Times {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(20))
        .measurement_time(Duration::from_millis(60))
        .sample_size(10)
        .nresamples(1000);
    let mut by_key: HashMap<Key, Vec<f64>> = HashMap::new();
    let cases = [(0, Case::ALL.as_slice()), (CHUNKS, &Case::ALL[..2])];
    for round in 0..ROUNDS {
        for group in groups {
            for (chunks, cases) in cases {
                backend.set_chunks(chunks);
                for (peer, side) in sides(group) {
                    for &case in cases {
                        let Some(pass) = side.pass(case) else {
                            continue;
                        };
                        let name = [group.layer, peer, case.name()].join("/");
                        let name = format!("round {round}/{name}/{chunks}");
                        let key = ([group.layer, peer], case, chunks);
                        let rounds = by_key.entry(key).or_default();
                        rounds.push(time_of(&mut criterion, &name, pass));
                    }
                }
            }
        }
    }
    let dropped = time_of(&mut criterion, "dropped", &dropped());
    criterion.final_summary();
    Times { by_key, dropped }
}

/// The median of criterion's samples.
fn time_of(criterion: &mut Criterion, name: &str, pass: &Pass) -> f64 {
    let samples = RefCell::new(Vec::new());
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|passes| {
            let begun = Instant::now();
            (0..passes).for_each(|_| pass());
            let elapsed = begun.elapsed();
            let each = elapsed.as_nanos() as f64 / passes as f64;
            samples.borrow_mut().push(each);
            elapsed
        });
    });
    median(&samples.into_inner())
}
