//! Each layer beside the nearest in tower, tower-http, tower_governor and tower-resilience.
//!
//! ```text
//! cargo bench -p llamatower-beside               criterion, then instructions by valgrind, then a table
//! cargo bench -p llamatower-beside -- --count    instructions alone
//! cargo bench -p llamatower-beside -- --time     times alone
//! ```
//!
//! A figure is what a layer adds to the same service without it; see `docs/layers-beside-others.md`.

mod count;
#[path = "../../../layers/benches/layers/exchange.rs"]
mod exchange;
mod pairs;
mod side;
mod time;

use llamatower_beside::{Costs, Row};

use exchange::Backend;
use side::{Group, Side};

/// The number of chunks of a long answer.
const CHUNKS: usize = 1000;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    // Timers need a runtime, but it is not run: no pass lasts long enough to need one.
    let _in_runtime = runtime.enter();
    let backend = Backend::default();
    let groups = pairs::all(&backend);
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let has = |argument: &str| arguments.iter().any(|one| one == argument);
    // Under valgrind, and as a test of `cargo test --benches`, the passes are done and not measured.
    if !has("--bench") {
        return count::run(&groups, &backend);
    }
    let times = (!has("--count")).then(|| time::measure(&groups, &backend));
    let counts = (!has("--time")).then(|| count::count(&groups)).flatten();
    let nanoseconds = |name| times.as_ref()?.costs(name);
    let instructions = |name| counts.as_ref()?.costs(name);
    llamatower_beside::print(&rows(&groups, instructions, nanoseconds));
}

/// A layer and its peer, which is empty for ours.
type Name = [&'static str; 2];

/// The sides of a group by name: ours first.
fn sides(group: &Group) -> impl Iterator<Item = (&'static str, &Side)> {
    let peers = group.peers.iter().map(|peer| (peer.name, &peer.side));
    [("", &group.ours)].into_iter().chain(peers)
}

fn rows(
    groups: &[Group],
    instructions: impl Fn(Name) -> Option<Costs>,
    nanoseconds: impl Fn(Name) -> Option<Costs>,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for group in groups {
        for peer in &group.peers {
            let names = [[group.layer, ""], [group.layer, peer.name]];
            let [counted, measured] = [names.map(&instructions), names.map(&nanoseconds)];
            let both = |[ours, theirs]: [Option<Costs>; 2]| Some([ours?, theirs?]);
            rows.push(Row {
                layer: group.layer,
                peer: peer.name,
                remark: peer.remark,
                instructions: both(counted),
                nanoseconds: both(measured),
            });
        }
    }
    rows
}
