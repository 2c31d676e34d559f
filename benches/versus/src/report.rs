//! The tables of the report.

use std::fmt::Write as _;

use crate::{
    contenders::Contender,
    latency::Latency,
    rounds::{DISTURBED_SHARE, Sample},
    shapes::{SHAPES, Shape},
};

/// The contender that ratios refer to.
pub(crate) const RATIO_BASE: &str = "nginx";

/// The value below which `share` of the sorted values lie; 0 for an empty list.
pub(crate) fn percentile(sorted: &[u64], share: f64) -> u64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0;
    };
    sorted[(last as f64 * share).round() as usize]
}

/// The median and the range of a figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[half]
        } else {
            (values[half - 1] + values[half]) / 2.0
        };
        Some(Self {
            median,
            least,
            most,
        })
    }

    pub(crate) fn text(&self, digits: usize) -> String {
        format!(
            "{:.digits$} ({:.digits$}–{:.digits$})",
            self.median, self.least, self.most
        )
    }
}

/// A latency text; `part` gives the median and the percentile.
fn latency(part: impl Fn(fn(Latency) -> f64) -> Option<f64>) -> Option<String> {
    let latency = Latency {
        median: part(|latency| latency.median)?,
        p99: part(|latency| latency.p99)?,
        ..Latency::default()
    };
    Some(latency.to_string())
}

/// The samples of a run.
pub(crate) struct Report {
    pub(crate) samples: Vec<Sample>,
    pub(crate) contenders: Vec<Contender>,
    pub(crate) machine: String,
    /// Sentences about missing data.
    pub(crate) notes: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
}

type Figure = fn(&Sample) -> Option<f64>;

impl Report {
    fn of<'a>(&'a self, shape: &'a str, contender: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples
            .iter()
            .filter(move |sample| sample.shape == shape && sample.contender == contender)
    }

    /// The figures of a contender with a shape.
    pub(crate) fn of_contender(
        &self,
        shape: &str,
        contender: &str,
        figure: &dyn Fn(&Sample) -> Option<f64>,
    ) -> Vec<f64> {
        self.of(shape, contender).filter_map(figure).collect()
    }

    /// The spread of a contender's figure over the rounds.
    pub(crate) fn spread(&self, shape: &str, contender: &str, figure: Figure) -> Option<Spread> {
        Spread::of(self.of(shape, contender).filter_map(figure).collect())
    }

    fn in_round<'a>(
        &'a self,
        shape: &'a str,
        contender: &'a str,
        round: usize,
    ) -> Option<&'a Sample> {
        self.of(shape, contender)
            .find(|sample| sample.round == round)
    }

    /// A figure as a multiple of nginx's figure in the same round.
    pub(crate) fn ratio(&self, shape: &str, contender: &str, figure: Figure) -> Option<Spread> {
        self.ratio_to(RATIO_BASE, shape, contender, figure)
    }

    /// A figure as a multiple of that of another contender in the same round.
    pub(crate) fn ratio_to(
        &self,
        base: &str,
        shape: &str,
        contender: &str,
        figure: Figure,
    ) -> Option<Spread> {
        self.beside(base, shape, contender, figure, |this, base| this / base)
    }

    /// A figure minus that of `base` in the same round.
    pub(crate) fn added_to(
        &self,
        base: &str,
        shape: &str,
        contender: &str,
        figure: Figure,
    ) -> Option<Spread> {
        self.beside(base, shape, contender, figure, |this, base| this - base)
    }

    fn beside(
        &self,
        base: &str,
        shape: &str,
        contender: &str,
        figure: Figure,
        of: fn(f64, f64) -> f64,
    ) -> Option<Spread> {
        let values = self.of(shape, contender).filter_map(|sample| {
            let base = self.in_round(shape, base, sample.round)?;
            Some(of(figure(sample)?, figure(base)?))
        });
        Spread::of(values.collect())
    }

    /// The time to the first byte minus the time without a proxy at the same rate.
    pub(crate) fn first_byte_added(
        &self,
        shape: &str,
        contender: &str,
        part: fn(Latency) -> f64,
    ) -> Option<Spread> {
        let added = self
            .of(shape, contender)
            .filter_map(|sample| Some(part(sample.first_byte? - sample.unproxied?)));
        Spread::of(added.collect())
    }

    /// The delay of a line minus the delay without a proxy in the same round.
    pub(crate) fn delay_added(
        &self,
        shape: &str,
        contender: &str,
        part: fn(Latency) -> f64,
    ) -> Option<Spread> {
        let added = self.of(shape, contender).filter_map(|sample| {
            let direct = self.in_round(shape, "direct", sample.round)?;
            Some(part(sample.delay? - direct.delay?))
        });
        Spread::of(added.collect())
    }

    /// The measured shapes.
    pub(crate) fn shapes(&self) -> Vec<Shape> {
        let seen = |shape: &Shape| self.samples.iter().any(|sample| sample.shape == shape.name);
        SHAPES.into_iter().filter(seen).collect()
    }

    /// The contenders, without `direct`.
    pub(crate) fn proxies(&self) -> Vec<&'static str> {
        self.contenders
            .iter()
            .map(|one| one.name)
            .filter(|name| *name != "direct")
            .collect()
    }

    /// A table with a row for each shape and a column for each proxy; `None` if it would be empty.
    fn table(&self, cell: impl Fn(&Shape, &str) -> Option<String>) -> Option<String> {
        let proxies = self.proxies();
        let mut text = format!("| |{}|\n|---|", proxies.join("|").replace('|', " | "));
        text += &"---:|".repeat(proxies.len());
        text.push('\n');
        let mut empty = true;
        for shape in self.shapes() {
            let cells: Vec<_> = proxies.iter().map(|name| cell(&shape, name)).collect();
            if cells.iter().all(Option::is_none) {
                continue;
            }
            empty = false;
            write!(text, "| {} ", shape.title).ok();
            for cell in cells {
                write!(text, "| {} ", cell.unwrap_or_else(|| "–".to_owned())).ok();
            }
            text += "|\n";
        }
        (!empty).then_some(text)
    }

    /// The tables in Markdown.
    pub(crate) fn tables(&self) -> String {
        let mut text = String::new();
        let mut add = |title: &str, words: &str, table: Option<String>| {
            if let Some(table) = table {
                write!(text, "## {title}\n\n{words}\n\n{table}\n").ok();
            }
        };
        add(
            "CPU time as a multiple of nginx's",
            "For each request; with paced streams for each chunk. Below 1 is less than nginx.",
            self.table(|shape, name| Some(self.ratio(shape.name, name, |s| s.cpu)?.text(2))),
        );
        add(
            "CPU time in microseconds",
            "All threads of all processes of the proxy, for each request or chunk.",
            self.table(|shape, name| Some(self.spread(shape.name, name, |s| s.cpu)?.text(1))),
        );
        add(
            "Requests per second",
            "In the closed loop. In brackets the share of its core that the proxy used: if it is well \
             below 100 %, the load generator was the limit, and the proxy could do more.",
            self.table(|shape, name| {
                let rate = self.spread(shape.name, name, |s| s.rate)?;
                let busy = self.spread(shape.name, name, |s| s.busy)?;
                Some(format!("{:.0} ({:.0} %)", rate.median, busy.median * 100.0))
            }),
        );
        add(
            "Time added to the first byte, in microseconds",
            "At half of the requests per second that each proxy reached, minus the time without a \
             proxy at that rate: median and 99th percentile.",
            self.table(|shape, name| {
                let added = |part| Some(self.first_byte_added(shape.name, name, part)?.median);
                latency(added)
            }),
        );
        add(
            "Time added to a chunk, in microseconds",
            "From the backend's write to the client's read, minus the time without a proxy in the \
             same round: median and 99th percentile; in brackets the share of the due chunks that arrived.",
            self.table(|shape, name| {
                let added = |part| Some(self.delay_added(shape.name, name, part)?.median);
                let share = self.spread(shape.name, name, |s| s.delivered)?;
                let share = share.median * 100.0;
                Some(format!("{} ({share:.0} %)", latency(added)?))
            }),
        );
        add(
            "Memory in MB",
            "Resident: before any load, and under load; with streams, in brackets the increase for \
             each stream, in kB.",
            self.table(|shape, name| {
                let idle = self
                    .spread(shape.name, name, |s| Some(s.memory?.0 as f64))?
                    .median;
                let loaded = self
                    .spread(shape.name, name, |s| Some(s.memory?.1 as f64))?
                    .median;
                let mut cell = format!("{:.1} → {:.1}", idle / 1e3, loaded / 1e3);
                if let Some(streams) = self.spread(shape.name, name, |s| Some(s.streams? as f64)) {
                    write!(cell, " ({:.1})", (loaded - idle) / streams.median).ok();
                }
                Some(cell)
            }),
        );
        add(
            "Cold start",
            "The time from the start of the process to its first answer.",
            self.starts(),
        );
        text
    }

    /// A sentence if the machine had other work.
    pub(crate) fn disturbance(&self) -> String {
        let disturbed = self
            .samples
            .iter()
            .filter(|one| one.disturbed > DISTURBED_SHARE)
            .count();
        if disturbed == 0 {
            return String::new();
        }
        format!(
            " In {disturbed} of {} measurements other processes used more than {:.0} % of one of the \
             two cores: this makes CPU times slightly higher, and rates and latencies worse.",
            self.samples.len(),
            DISTURBED_SHARE * 100.0
        )
    }

    /// A sentence about the latencies without enough quiet times.
    fn noise_note(&self) -> String {
        let proxied = |sample: &&Sample| sample.contender != "direct";
        let taken = |sample: &Sample| sample.first_byte.or(sample.delay);
        let never_quiet = |shape: &Shape| {
            let of_shape = self.samples.iter().filter(|one| one.shape == shape.name);
            let latencies: Vec<_> = of_shape.filter(proxied).filter_map(taken).collect();
            let count = latencies.iter().filter(|one| one.quiet.is_none()).count();
            let all = latencies.len();
            (count > 0).then(|| format!("{count} of {all} of “{}”", shape.title))
        };
        let shapes: Vec<_> = self.shapes().iter().filter_map(never_quiet).collect();
        if shapes.is_empty() {
            return String::new();
        }
        format!(
            " In some measurements both cores were quiet for less than a tenth of the times, so all \
             times count there, including delays by other work: {}.",
            shapes.join(", ")
        )
    }

    fn starts(&self) -> Option<String> {
        let mut text = "| | ms |\n|---|---:|\n".to_owned();
        let before = text.len();
        for name in self.proxies() {
            let of = self
                .samples
                .iter()
                .filter(|sample| sample.contender == name);
            if let Some(spread) = Spread::of(of.filter_map(|sample| sample.cold_start).collect()) {
                writeln!(text, "| {name} | {} |", spread.text(0)).ok();
            }
        }
        (text.len() > before).then_some(text)
    }

    /// The page, with `plots` after the introduction.
    pub(crate) fn page(&self, plots: &[(String, String)]) -> String {
        let mut text = format!(
            "# Beside other proxies\n\n<!-- Made by `cargo run --release -p llamatower-versus -- \
             --write-docs`. -->\n\n{} rounds of {} s on {}. Other machines have other figures; \
             the ratios travel better.{}{}\n\n",
            self.rounds,
            self.seconds,
            self.machine,
            self.disturbance(),
            self.noise_note()
        );
        for (title, file) in plots {
            write!(text, "![{title}]({file})\n\n").ok();
        }
        text += &self.tables();
        text += METHOD;
        text += "\n| | version |\n|---|---|\n";
        for contender in self.contenders.iter().filter(|one| one.name != "direct") {
            writeln!(text, "| {} | {} |", contender.name, contender.version).ok();
        }
        for note in &self.notes {
            write!(text, "\n{note}\n").ok();
        }
        text
    }
}

const METHOD: &str = "\
## How it is measured

Each proxy has its own core, on which it runs before everything else (`SCHED_FIFO`). Otherwise
kernel threads and other work of the machine would stop any proxy for some milliseconds a few times
a second. LiteLLM and Portkey run with the normal priority, because their threads wait for each
other and would block with that one. The load generator and two simulated backends run in one
thread on the other core, without a special priority. Each proxy is started again for each shape of
each round, and the order rotates from round to round. Ratios are computed within a round. The
tables show the median over the rounds, with the minimum and the maximum in brackets. Nothing is
subtracted from CPU times.

CPU time is the time that the kernel charged to all threads of all processes of the proxy
(`/proc/PID/task/*/schedstat`). For requests, it is measured over the same number of requests in a
closed loop of 32 connections, so each proxy works at full speed. For paced streams, it is measured
over a time in which all streams are open. A line comes every 25 ms on each of 300 streams, and
every 100 ms on each of 2,000, because one core cannot punctually write and read more lines. A
proxy that falls behind forwards several lines at once, which costs less for each line: in this case
look at the share of delivered chunks and at the delay.

Latency to the first byte is measured at half of the requests per second that the proxy answered in
the closed loop, at most 20,000, and counts from the time when a request was due. Each line of a
paced stream contains the time at which the backend wrote it. The streams start at independent
times, and each line is sent when it is due, with a precision of some microseconds: with a timer of
milliseconds, a dozen lines would be sent together and queue in the proxy. The backend writes a
stream of 20 lines at once, in 20 HTTP chunks.

Latencies are measured after CPU time, while neither core is ever idle: a process without work uses
the rest of the proxy's core (`SCHED_IDLE`). So time that the proxy, this process, the load generator
and the backends have not used was taken by other work: by other processes, or by the hypervisor for
other guests, if the kernel gets this time reported and counts it separately. Slices of 50 ms in
which a core lost more than 0.1 ms in this way do not count, nor do the slices after them, in which
the delayed requests are answered. Delays by the proxy itself count. If less than a tenth of the
times would remain, all times count, and the beginning of this page says so. With a connection for
each request this is usual, because the kernel's own threads have work then. The core of LiteLLM and
Portkey is not filled, so for them only slices with lost time on the load generator's core are
excluded. Added times are differences of two medians or of two 99th percentiles, and can be negative
if the second value is caused by the machine.

nginx has one worker, `proxy_buffering off`, `proxy_request_buffering off`, `keepalive 256` and no
access log. Its buffers have their default size, a few kB; larger ones would make large bodies
cheaper and each stream more expensive. HAProxy has one thread, `http-reuse always`,
`option http-no-delay` and no log. llamatower is the release binary with all its layers and its
default settings but for two: `LLAMATOWER_LOG=warn` to write no access log (`llamatower+log` writes it
to `/dev/null`), and `LLAMATOWER_SLOTS=off`, because no other proxy here has a queue. `llamatower-base`, if present, is another build, given by `--gateway-base`. Plain
hyper is a server and a connection pool of the same libraries, with nothing between. LiteLLM and
Portkey use OpenAI's dialect, whose lines are longer, and get less load (a fortieth and a tenth of
the requests and of the streams), because they would take hours otherwise; CPU time for each request
and memory for each stream are still comparable. They are not in the plots, because the other bars
would not be visible beside theirs.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: usize, contender: &'static str, cpu: f64) -> Sample {
        Sample {
            round,
            shape: "unary",
            contender,
            cpu: Some(cpu),
            ..Sample::default()
        }
    }

    fn report() -> Report {
        Report {
            samples: vec![
                sample(0, "nginx", 10.0),
                sample(0, "llamatower", 20.0),
                sample(1, "nginx", 20.0),
                sample(1, "llamatower", 20.0),
                sample(2, "llamatower", 90.0),
            ],
            contenders: vec![
                Contender::fake("nginx", "1"),
                Contender::fake("llamatower", "2"),
            ],
            machine: "a machine".to_owned(),
            notes: vec!["Portkey is not installed here and was left out.".to_owned()],
            rounds: 3,
            seconds: 4.0,
        }
    }

    #[test]
    fn percentiles_of_sorted_values() {
        let values: Vec<_> = (0..=100).collect();
        assert_eq!(percentile(&values, 0.5), 50);
        assert_eq!(percentile(&values, 0.99), 99);
        assert_eq!(percentile(&[], 0.5), 0);
    }

    #[test]
    fn a_ratio_uses_values_of_one_round() {
        let ratio = report().ratio("unary", "llamatower", |s| s.cpu);
        assert_eq!(
            ratio,
            Some(Spread {
                median: 1.5,
                least: 1.0,
                most: 2.0
            })
        );
        assert_eq!(report().ratio("burst", "llamatower", |s| s.cpu), None);
    }

    #[test]
    fn the_page_contains_ratios_versions_and_missing_contenders() {
        let page = report().page(&[]);
        assert!(
            page.contains("| small answers | 1.00 (1.00–1.00) | 1.50 (1.00–2.00) |"),
            "{page}"
        );
        assert!(page.contains("| llamatower | 2 |"));
        assert!(page.contains("Portkey is not installed here and was left out."));
        assert!(
            !page.contains("Requests per second"),
            "no table without figures"
        );
    }

    #[test]
    fn the_page_lists_shapes_without_quiet_times() {
        let mut report = report();
        assert!(!report.page(&[]).contains("cores were quiet"));
        for (sample, quiet) in report.samples.iter_mut().zip([None, Some(0.5)]) {
            let latency = Latency::default();
            sample.first_byte = Some(Latency { quiet, ..latency });
        }
        let page = report.page(&[]);
        assert!(
            page.contains("other work: 1 of 2 of “small answers”."),
            "{page}"
        );
    }
}
