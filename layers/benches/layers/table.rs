//! The difference that each layer makes, as a table.

use std::time::{Duration, Instant};

use super::{CHUNKS, Subject};

/// How often both sides of a difference are taken, in turn, so that what else the machine does
/// meets both alike.
const ROUNDS: usize = 200;

/// How long one side of one round takes, about.
const SIDE: Duration = Duration::from_micros(500);

pub(crate) fn print(subjects: &[Subject]) {
    println!("| Layer | ns a request | ns a chunk |");
    println!("|---|---:|---:|");
    for subject in subjects {
        let request = difference(subject, 0);
        let chunk = (difference(subject, CHUNKS) - request) / CHUNKS as f64;
        println!("| {} | {request:.0} | {chunk:.1} |", subject.name());
    }
}

/// The difference that the layer makes to one pass, in nanoseconds. Of each side the shortest time
/// is taken: it is the one that nothing else has disturbed.
fn difference(subject: &Subject, chunks: usize) -> f64 {
    subject.set_chunks(chunks);
    let passes = passes_in(SIDE, || subject.pass());
    let (mut with, mut without) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        with = with.min(time_of(passes, || subject.pass()));
        without = without.min(time_of(passes, || subject.pass_without()));
    }
    (with - without) / passes as f64
}

/// How many passes fit in so long, found while the caches warm up.
fn passes_in(time: Duration, pass: impl Fn()) -> usize {
    let mut passes = 1;
    while time_of(passes, &pass) < time.as_nanos() as f64 {
        passes *= 2;
    }
    passes
}

fn time_of(passes: usize, pass: impl Fn()) -> f64 {
    let begun = Instant::now();
    (0..passes).for_each(|_| pass());
    begun.elapsed().as_nanos() as f64
}
