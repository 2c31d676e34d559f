//! The table of the comparison.

/// What a layer adds, in instructions or in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Costs {
    /// A request that passes, whose answer is one chunk.
    pub request: f64,
    /// A request that the layer refuses, or answers itself.
    pub refused: Option<f64>,
    /// Each further chunk of the answer.
    pub chunk: f64,
}

/// One layer beside one peer.
#[derive(Clone, Debug)]
pub struct Row {
    /// The name of our layer.
    pub layer: &'static str,
    /// The name of the other layer.
    pub peer: &'static str,
    /// In which way the two do not do the same.
    pub remark: &'static str,
    /// The instructions of both, if they were counted.
    pub instructions: Option<[Costs; 2]>,
    /// The nanoseconds of both, if they were measured.
    pub nanoseconds: Option<[Costs; 2]>,
}

/// Prints the rows as a table in Markdown: ours / theirs, and the ratio of the instructions.
pub fn print(rows: &[Row]) {
    println!(
        "| layer | beside | request | | refused | | chunk | | request, ns | chunk, ns | remark |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|");
    for row in rows {
        let [request, refused, chunk] = figures(row.instructions);
        let [request_ns, _, chunk_ns] = figures(row.nanoseconds);
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.layer,
            row.peer,
            both(request),
            ratio(request),
            both(refused),
            ratio(refused),
            both(chunk),
            ratio(chunk),
            both(request_ns),
            both(chunk_ns),
            row.remark,
        );
    }
}

type Figures = Option<[f64; 2]>;

/// The figures of both sides for a request, a refused request and a chunk.
fn figures(costs: Option<[Costs; 2]>) -> [Figures; 3] {
    let refused = |[ours, theirs]: [Costs; 2]| Some([ours.refused?, theirs.refused?]);
    [
        costs.map(|both| both.map(|costs| costs.request)),
        costs.and_then(refused),
        costs.map(|both| both.map(|costs| costs.chunk)),
    ]
}

fn both(figures: Figures) -> String {
    figures.map_or_else(String::new, |[ours, theirs]| {
        format!("{} / {}", figure(ours), figure(theirs))
    })
}

/// A figure without the minus of a zero.
fn figure(value: f64) -> String {
    format!("{:.0}", value.round() + 0.0)
}

/// Empty if a side costs next to nothing, because the ratio then says nothing.
fn ratio(figures: Figures) -> String {
    match figures {
        Some([ours, theirs]) if theirs >= 1.0 => format!("{:.2}", ours.max(0.0) / theirs),
        _ => String::new(),
    }
}

/// The median; not a number if there are no values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    let half = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => middle(half),
        _ => (middle(half.wrapping_sub(1)) + middle(half)) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_values_is_between_the_two_in_the_middle() {
        assert_eq!(median(&[4.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn there_is_no_ratio_to_a_peer_that_costs_nothing() {
        assert_eq!(ratio(Some([6.0, 0.2])), "");
        assert_eq!(ratio(Some([6.0, 12.0])), "0.50");
        assert_eq!(ratio(Some([-0.4, 12.0])), "0.00");
        assert_eq!(both(Some([-0.4, 12.0])), "0 / 12");
    }
}
