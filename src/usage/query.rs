//! Which days, and how rows are summed up.

use std::collections::BTreeMap;

use foldhash::{HashMap, HashMapExt};
use jiff::ToSpan;
use jiff::civil::Date;

use crate::state::{Counts, State, UsageKey, add};

/// The days that are shown if none are given, today included.
const USUAL_DAYS: i64 = 30;
/// The most rows of a response. Each takes about 300 bytes.
const MAX_ROWS: usize = 100_000;

/// A question of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The first day.
    pub from: Date,
    /// The last day.
    pub to: Date,
    /// What each row stands for.
    pub by: GroupBy,
    /// The format of the response.
    pub format: Format,
}

/// What each row stands for; counts are summed up over all else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupBy {
    /// A day or a month.
    pub period: Option<Period>,
    /// A key.
    pub key: bool,
    /// A model.
    pub model: bool,
}

/// A part of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From the first of a month to the first of the next.
    Month,
}

/// The format of the response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One object.
    #[default]
    Json,
    /// A line for each row.
    Csv,
}

/// A parameter is wrong, or there is too much to tell. The text is for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A parameter.
    #[error("the parameter {name}: {reason}")]
    Parameter {
        /// Its name.
        name: String,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// More than a response holds.
    #[error(
        "more than {MAX_ROWS} rows; ask for fewer days with from and to, or sum up with by, for example \
         by=month,key"
    )]
    TooManyRows,
    /// The file cannot be read.
    #[error("the usage cannot be read: {0}")]
    Unreadable(String),
    /// The sums are not those of all gateways, which a CSV file cannot say.
    #[error(
        "these are not the sums of all gateways, so there is no CSV of them: {0}; JSON has them"
    )]
    OfOneGateway(String),
}

/// The period, the key and the model of a row, as far as the query asks for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SumsKey {
    /// A day like 2026-11-30, or a month like 2026-11.
    pub period: Option<String>,
    /// The key.
    pub key: Option<String>,
    /// The model.
    pub model: Option<String>,
}

/// The rows of a response, in the order of period, key and model.
pub type Sums = BTreeMap<SumsKey, Counts>;

impl Query {
    /// Reads the query of an address. Without `from` and `to` it is the last 30 days; without `by`
    /// there is a row for each day, key and model.
    ///
    /// # Errors
    /// A parameter is unknown, given twice, or has a wrong value.
    pub fn parse(query: &str, today: Date) -> Result<Self, QueryError> {
        let (mut from, mut to, mut by, mut format) = (None, None, None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let is_first = match &*name {
                "from" => from.replace(day("from", &value)?).is_none(),
                "to" => to.replace(day("to", &value)?).is_none(),
                "by" => by.replace(GroupBy::parse(&value)?).is_none(),
                "format" => format.replace(Format::parse(&value)?).is_none(),
                _ => {
                    return Err(wrong(
                        &name,
                        "it is unknown; there are from, to, by and format",
                    ));
                }
            };
            if !is_first {
                return Err(wrong(&name, "it is given twice"));
            }
        }
        let to = to.unwrap_or(today.max(from.unwrap_or(today)));
        let from = from.unwrap_or_else(|| {
            let from = to.checked_sub((USUAL_DAYS - 1).days());
            from.unwrap_or(to)
        });
        if from > to {
            let reason = format!("{from} is after {to}, the last day (to)");
            return Err(wrong("from", &reason));
        }
        Ok(Self {
            from,
            to,
            by: by.unwrap_or(GroupBy {
                period: Some(Period::Day),
                key: true,
                model: true,
            }),
            format: format.unwrap_or_default(),
        })
    }

    /// The rows, and whether they are complete: see [`State::usage`]. It reads the file, so it blocks.
    /// `of_all` are the counts of all gateways that share usage. If they have lost a part that this gateway
    /// has in its file, that counts.
    ///
    /// # Errors
    /// The file cannot be read, or there are too many rows.
    pub fn sums(
        &self,
        state: &State,
        of_all: Option<HashMap<UsageKey, Counts>>,
    ) -> Result<(Sums, bool), QueryError> {
        let mut sums = Sums::new();
        let mut add_row = |day, key: &str, model: &str, counts: &Counts| {
            // One row more tells that there are too many.
            if sums.len() <= MAX_ROWS {
                let row = self.by.row(day, key, model);
                add(sums.entry(row).or_default(), counts);
            }
        };
        let read = match of_all {
            None => state.usage(self.from, self.to, add_row),
            Some(mut of_all) => {
                let mut own: HashMap<UsageKey, Counts> = HashMap::new();
                let read = state.usage(self.from, self.to, |day, key, model, counts| {
                    let (key, model) = (key.into(), model.into());
                    add(own.entry(UsageKey { day, key, model }).or_default(), counts);
                });
                for (row, own) in own {
                    let of_all = of_all.entry(row).or_default();
                    for (of_all, own) in of_all.iter_mut().zip(own) {
                        *of_all = own.max(*of_all);
                    }
                }
                for (row, counts) in &of_all {
                    add_row(row.day, &row.key, &row.model, counts);
                }
                read
            }
        };
        let is_complete = read.map_err(QueryError::Unreadable)?;
        match sums.len() > MAX_ROWS {
            true => Err(QueryError::TooManyRows),
            false => Ok((sums, is_complete)),
        }
    }
}

impl GroupBy {
    fn parse(text: &str) -> Result<Self, QueryError> {
        const ALLOWED: &str =
            "it is a comma-separated list of day or month, key and model; or total for one row";
        let mut by = Self::default();
        if text == "total" {
            return Ok(by);
        }
        for name in text.split(',').map(str::trim) {
            let period = match name {
                "day" => Some(Period::Day),
                "month" => Some(Period::Month),
                _ => None,
            };
            let is_new = match name {
                "key" => !std::mem::replace(&mut by.key, true),
                "model" => !std::mem::replace(&mut by.model, true),
                _ if period.is_some() => std::mem::replace(&mut by.period, period).is_none(),
                _ => return Err(wrong("by", &format!("{name:?} is unknown; {ALLOWED}"))),
            };
            if !is_new {
                return Err(wrong("by", &format!("{name:?} is one too many; {ALLOWED}")));
            }
        }
        Ok(by)
    }

    /// The names of what a row stands for.
    pub fn names(self) -> Vec<&'static str> {
        let period = self.period.map(Period::name);
        let key = self.key.then_some("key");
        let model = self.model.then_some("model");
        [period, key, model].into_iter().flatten().collect()
    }

    /// The period of a row as a day or a month, and `None` for the other.
    pub fn split_period(self, period: Option<String>) -> (Option<String>, Option<String>) {
        match self.period {
            Some(Period::Month) => (None, period),
            _ => (period, None),
        }
    }

    fn row(self, day: i32, key: &str, model: &str) -> SumsKey {
        SumsKey {
            period: self.period.map(|period| period.text(day)),
            key: self.key.then(|| key.to_owned()),
            model: self.model.then(|| model.to_owned()),
        }
    }
}

impl Period {
    /// The name of its column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    fn text(self, day: i32) -> String {
        let (year, month, day) = (day / 10_000, day / 100 % 100, day % 100);
        match self {
            Self::Day => format!("{year:04}-{month:02}-{day:02}"),
            Self::Month => format!("{year:04}-{month:02}"),
        }
    }
}

impl Format {
    fn parse(text: &str) -> Result<Self, QueryError> {
        match text {
            "json" => Ok(Self::Json),
            "csv" => Ok(Self::Csv),
            _ => Err(wrong(
                "format",
                &format!("{text:?} is unknown; it is json or csv"),
            )),
        }
    }
}

fn day(name: &str, text: &str) -> Result<Date, QueryError> {
    let date: Result<Date, _> = text.parse();
    // The parser also accepts a time after the day.
    let date = date.ok().filter(|_| text.len() == "2026-11-30".len());
    date.ok_or_else(|| wrong(name, &format!("{text:?} is not a day like 2026-11-30")))
}

fn wrong(name: &str, reason: &str) -> QueryError {
    QueryError::Parameter {
        name: name.to_owned(),
        reason: reason.to_owned(),
    }
}
