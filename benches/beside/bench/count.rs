//! The instructions of each pass, counted by valgrind in one run of this program.

use std::collections::HashMap;

use llamatower_beside::Costs;

use super::exchange::Backend;
use super::side::{Case, Group, Pass, dropped};
use super::{CHUNKS, Name, sides};

/// The requests of a phase with one chunk each, and of one with [`CHUNKS`] more.
const PASSES: usize = 50;
const LONG_PASSES: usize = 1;

/// A side, its case, and the number of chunks.
type Key = (Name, Case, usize);

/// The instructions of a pass of each phase.
pub(crate) struct Counts {
    by_key: HashMap<Key, f64>,
    dropped: f64,
}

impl Counts {
    /// The instructions that a side adds.
    pub(crate) fn costs(&self, name: Name) -> Option<Costs> {
        let count = |case, chunks| self.by_key.get(&(name, case, chunks)).copied();
        let added = |chunks| Some(count(Case::With, chunks)? - count(Case::Without, chunks)?);
        let request = added(0)?;
        Some(Costs {
            request,
            refused: count(Case::Refused, 0).map(|refused| refused - self.dropped),
            chunk: (added(CHUNKS)? - request) / CHUNKS as f64,
        })
    }
}

/// The phases in the order of a run, and their numbers of passes.
fn phases(groups: &[Group]) -> impl Iterator<Item = (Key, &Pass, usize)> {
    groups.iter().flat_map(|group| {
        let of_side = |(peer, side)| phases_of_side([group.layer, peer], side);
        sides(group).flat_map(of_side)
    })
}

fn phases_of_side(name: Name, side: &super::Side) -> Vec<(Key, &Pass, usize)> {
    let short = Case::ALL.map(|case| (case, 0, PASSES));
    let long = [Case::With, Case::Without].map(|case| (case, CHUNKS, LONG_PASSES));
    let phase = |(case, chunks, passes)| Some(((name, case, chunks), side.pass(case)?, passes));
    short.into_iter().chain(long).filter_map(phase).collect()
}

/// Does the passes of each phase, the harness's own part of a refused request first.
pub(crate) fn run(groups: &[Group], backend: &Backend) {
    let dropped = dropped();
    repeat(&dropped, PASSES);
    for ((_, _, chunks), pass, passes) in phases(groups) {
        backend.set_chunks(chunks);
        repeat(pass, passes);
    }
}

fn repeat(pass: &Pass, passes: usize) {
    // What serves many requests is done in the first.
    pass();
    llamatower_beside::phase(|| (0..passes).for_each(|_| pass()));
}

/// `None` if valgrind is not installed.
pub(crate) fn count(groups: &[Group]) -> Option<Counts> {
    if !llamatower_beside::is_installed() {
        eprintln!("valgrind is not installed: no instructions are counted");
        return None;
    }
    let counts = llamatower_beside::instructions().expect("valgrind counts a run");
    let (dropped, counts) = counts.split_first().expect("a count for each phase");
    let phases: Vec<_> = phases(groups).collect();
    assert_eq!(counts.len(), phases.len(), "a count for each phase");
    let by_key = phases.into_iter().zip(counts);
    Some(Counts {
        by_key: by_key
            .map(|((key, _, passes), count)| (key, count / passes as f64))
            .collect(),
        dropped: dropped / PASSES as f64,
    })
}
