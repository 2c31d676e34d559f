//! Merges the lists of all backends into one, as a single Ollama would send it.
//!
//! Rows are passed on byte for byte. The gateway only chooses the rows and their order. How it asks the
//! backends is in `pages.rs`.

mod pages;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use llamatower_layers::llm_request::ModelName;
use llamatower_layers::model_alias::Candidate;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

pub(super) use self::pages::lowest_version;
use self::pages::pages_of;
use super::fleet::{Backend, Unreachable};
use crate::clients::model_rules::VisibleModels;
use crate::openai::models;

/// Models that lists have beside those of the servers; in the extensions of a request. Another service
/// answers for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct MoreModels {
    /// Those that no server can answer for now.
    pub(crate) listed: Vec<ModelName>,
    /// Those to list if no server responds; empty if the client should get the servers' error then.
    pub(crate) if_unreachable: Vec<ModelName>,
}

/// A list that is merged from all backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// `/api/tags`: one row per model, newest first.
    Tags,
    /// `/api/ps`: one row per model; the model that stays in memory longest is first.
    Ps,
    /// `/v1/models`: one row per model, newest first.
    Models,
}

impl List {
    fn path(self) -> &'static str {
        match self {
            Self::Tags => "/api/tags",
            Self::Ps => "/api/ps",
            Self::Models => "/v1/models",
        }
    }

    fn frame(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::Tags | Self::Ps => (br#"{"models":["#, b"]}"),
            // Ollama ends this list with a newline, but not the native ones.
            Self::Models => (br#"{"object":"list","data":["#, b"]}\n"),
        }
    }

    /// Merges the lists of the backends that are up and respond in time or have done so lately, and
    /// adds `more` models that they do not have.
    ///
    /// # Errors
    /// No backend responded; the error is that of the first backend.
    pub(super) async fn collect<'a>(
        self,
        backends: impl Iterator<Item = &'a Backend>,
        limit: Duration,
        visible: &VisibleModels,
        more: Option<&MoreModels>,
    ) -> Result<Bytes, Unreachable> {
        let backends: Vec<_> = backends.collect();
        let if_unreachable = more.map(|more| &*more.if_unreachable);
        let if_unreachable = if_unreachable.filter(|names| !names.is_empty());
        let all_down = backends.iter().all(|backend| !backend.is_up());
        let (pages, names) = match if_unreachable {
            // Nothing has to wait for their time-outs.
            Some(names) if all_down => (Vec::new(), names),
            _ => match pages_of(backends.into_iter(), self.path(), limit).await {
                Ok(pages) => (pages, more.map_or(&[][..], |more| &more.listed[..])),
                Err(error) => (Vec::new(), if_unreachable.ok_or(error)?),
            },
        };
        let mut rows: Vec<_> = allowed_rows(&pages).collect();
        let added = names.iter();
        let added = added.filter(|name| rows.iter().all(|row| row.key != **name));
        let added: Vec<_> = added.filter_map(|name| self.row(name)).collect();
        rows.extend(added);
        Ok(self.merge(self.shown(rows, visible)))
    }

    /// The row of a model of which only the name is known; `None` if the list is not of such models.
    fn row(self, name: &ModelName) -> Option<Row<'static>> {
        let text = name.to_string();
        let model = models::Model::named(&text);
        let row = match self {
            Self::Ps => return None,
            Self::Tags => models::tag(&model),
            Self::Models => models::row(&model),
        };
        Some(Row {
            key: name.clone(),
            rank: None,
            raw: Cow::Owned(row.to_string()),
        })
    }

    /// The rows that the client may see, and those of aliases. An alias has the row of its first
    /// model that is there, and hides a model of its own name.
    fn shown<'a>(self, mut rows: Vec<Row<'a>>, visible: &VisibleModels) -> Vec<Row<'a>> {
        let mut aliases = Vec::new();
        if self != Self::Ps {
            for (alias, models) in &visible.aliases {
                let newest = models.iter().find_map(|model| newest(&rows, &model.name));
                aliases.extend(newest.and_then(|row| row.of_alias(alias, self)));
            }
        }
        let is_hidden = |key: &ModelName| aliases.iter().any(|alias: &Row<'_>| alias.key == *key);
        rows.retain(|row| visible.shows(&row.key) && !is_hidden(&row.key));
        rows.extend(aliases);
        rows
    }

    fn merge(self, mut rows: Vec<Row<'_>>) -> Bytes {
        rows.sort_by_key(|row| std::cmp::Reverse(row.rank));
        let mut seen = HashSet::new();
        let (head, tail) = self.frame();
        let mut merged = BytesMut::from(head);
        for row in rows {
            if !seen.insert(row.key) {
                continue;
            }
            if seen.len() > 1 {
                merged.put_u8(b',');
            }
            merged.put_slice(row.raw.as_bytes());
        }
        merged.put_slice(tail);
        merged.freeze()
    }
}

/// The newest row of `/v1/models` for one model, with the newline at the end of Ollama's response.
/// For an alias of some `models`, it is the row of the first that is there, under the name that the
/// client `asked` for.
///
/// # Errors
/// No backend responded; the error is that of the first backend.
pub(super) async fn model<'a>(
    name: &ModelName,
    asked: &str,
    models: Option<Vec<Candidate>>,
    backends: impl Iterator<Item = &'a Backend>,
    limit: Duration,
) -> Result<Option<Bytes>, Unreachable> {
    let pages = pages_of(backends, List::Models.path(), limit).await?;
    let rows: Vec<_> = allowed_rows(&pages).collect();
    let row = match models {
        None => newest(&rows, name).map(|row| row.raw.clone()),
        Some(models) => {
            let row = models.iter().find_map(|model| newest(&rows, &model.name));
            row.and_then(|row| row.with_name(asked)).map(Cow::Owned)
        }
    };
    Ok(row.map(|row| format!("{row}\n").into()))
}

fn newest<'r, 'a>(rows: &'r [Row<'a>], name: &ModelName) -> Option<&'r Row<'a>> {
    let rows = rows.iter().filter(|row| row.key == *name);
    rows.max_by_key(|row| row.rank)
}

/// A page of `/api/tags` in the form of `/v1/models`.
fn as_models(tags: &Bytes) -> Bytes {
    let rows = rows_of(tags).into_iter().map(|row| {
        models::row(&models::Model {
            created: row.rank,
            ..models::Model::named(&row.key.to_string())
        })
    });
    json!({ "object": "list", "data": rows.collect::<Vec<_>>() })
        .to_string()
        .into()
}

struct Row<'a> {
    key: ModelName,
    /// Rows are sorted by this, latest first.
    rank: Option<Timestamp>,
    raw: Cow<'a, str>,
}

impl<'a> Row<'a> {
    /// The row under the name of an alias. Ollama's own lists have a tag in each name; clients of
    /// OpenAI's compare the name as they know it.
    fn of_alias(&self, alias: &Candidate, list: List) -> Option<Row<'a>> {
        let raw = match list {
            List::Models => self.with_name(&alias.text),
            List::Tags | List::Ps => self.with_name(&alias.name.to_string()),
        };
        Some(Row {
            key: alias.name.clone(),
            rank: self.rank,
            raw: Cow::Owned(raw?),
        })
    }

    /// The row's text with another name; its other values are the same bytes.
    fn with_name(&self, name: &str) -> Option<String> {
        let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&self.raw).ok()?;
        for key in ["name", "model", "id"] {
            if let Some(value) = members.get_mut(key) {
                *value = serde_json::value::to_raw_value(name).ok()?;
            }
        }
        serde_json::to_string(&members).ok()
    }
}

/// The rows of models that the gateway may use on the server that lists them.
fn allowed_rows<'a>(pages: &'a [(&'a Backend, Bytes)]) -> impl Iterator<Item = Row<'a>> {
    pages.iter().flat_map(|(backend, page)| {
        let rows = rows_of(page).into_iter();
        rows.filter(|row| backend.allows(&row.key))
    })
}

fn rows_of(page: &Bytes) -> Vec<Row<'_>> {
    #[derive(Deserialize)]
    struct Page<'a> {
        #[serde(borrow, alias = "data")]
        models: Option<Vec<&'a RawValue>>,
    }
    let page: Option<Page<'_>> = serde_json::from_slice(page).ok();
    let rows = page.and_then(|page| page.models).unwrap_or_default();
    rows.into_iter().filter_map(row_of).collect()
}

fn row_of(raw: &RawValue) -> Option<Row<'_>> {
    #[derive(Deserialize)]
    struct Fields {
        #[serde(alias = "id")]
        name: String,
        #[serde(alias = "expires_at")]
        modified_at: Option<Timestamp>,
        created: Option<i64>,
    }
    let fields: Fields = serde_json::from_str(raw.get()).ok()?;
    let created = || Timestamp::from_second(fields.created?).ok();
    Some(Row {
        key: ModelName::parse(&fields.name).ok()?,
        rank: fields.modified_at.or_else(created),
        raw: Cow::Borrowed(raw.get()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(list: List, pages: &[&'static str]) -> String {
        let pages: Vec<_> = pages.iter().map(|page| Bytes::from(*page)).collect();
        let rows = pages.iter().flat_map(rows_of).collect();
        String::from_utf8(list.merge(rows).to_vec()).expect("JSON is text")
    }

    #[test]
    fn an_empty_fleet_has_an_empty_list_and_not_null() {
        assert_eq!(
            merged(List::Tags, &[r#"{"models":null}"#]),
            r#"{"models":[]}"#
        );
    }

    #[test]
    fn a_model_on_two_backends_is_one_row_the_newest_first() {
        let a = r#"{"models":[{"name":"b:latest","modified_at":"2026-01-01T00:00:00Z","digest":"1"},{"name":"a:latest","modified_at":"2026-03-01T00:00:00Z"}]}"#;
        let b = r#"{"models":[{"name":"B:latest","modified_at":"2026-02-01T00:00:00+02:00","digest":"2"}]}"#;
        let all = merged(List::Tags, &[a, b]);
        assert_eq!(
            all,
            r#"{"models":[{"name":"a:latest","modified_at":"2026-03-01T00:00:00Z"},{"name":"B:latest","modified_at":"2026-02-01T00:00:00+02:00","digest":"2"}]}"#
        );
    }

    #[test]
    fn rows_are_passed_on_byte_for_byte() {
        let page = "{\"models\":[{\"name\":\"a:latest\", \"x\":\"\\u003c\\u2028\"}]}";
        assert!(
            merged(List::Tags, &[page])
                .contains("{\"name\":\"a:latest\", \"x\":\"\\u003c\\u2028\"}")
        );
    }

    #[test]
    fn models_of_openai_are_keyed_by_id() {
        let a = r#"{"object":"list","data":[{"id":"a","object":"model","created":5}]}"#;
        let b = r#"{"object":"list","data":[{"id":"b","object":"model","created":9},{"id":"a","object":"model","created":7}]}"#;
        assert_eq!(
            merged(List::Models, &[a, b]),
            "{\"object\":\"list\",\"data\":[{\"id\":\"b\",\"object\":\"model\",\"created\":9},{\"id\":\"a\",\"object\":\"model\",\"created\":7}]}\n"
        );
    }

    #[test]
    fn an_alias_has_the_row_of_its_first_model_that_is_there() {
        let candidate = |text: &str| Candidate::parse(text).expect("a name");
        let models = ["absent", "b"].map(candidate);
        let visible = VisibleModels {
            aliases: vec![
                (candidate("gpt"), models.to_vec()),
                (candidate("a"), models.to_vec()),
                (candidate("none"), vec![candidate("absent")]),
            ],
            ..VisibleModels::default()
        };
        let listed = |list: List, page: &'static str| {
            let page = Bytes::from(page);
            let merged = list.merge(list.shown(rows_of(&page), &visible));
            String::from_utf8(merged.to_vec()).expect("JSON is text")
        };
        let page = r#"{"models":[{"name":"a:latest","size":1},{"name":"b:latest","model":"b:latest","size": 2,"details":{"name":"x"}}]}"#;
        assert_eq!(
            listed(List::Tags, page),
            r#"{"models":[{"name":"b:latest","model":"b:latest","size": 2,"details":{"name":"x"}},{"details":{"name":"x"},"model":"gpt:latest","name":"gpt:latest","size":2},{"details":{"name":"x"},"model":"a:latest","name":"a:latest","size":2}]}"#
        );
        let page = r#"{"models":[{"name":"b:latest"}]}"#;
        assert_eq!(listed(List::Ps, page), page);
    }

    #[test]
    fn a_list_of_installed_models_has_the_same_rows_for_openai() {
        let tags =
            r#"{"models":[{"name":"a:latest","modified_at":"2026-01-01T00:00:00.5Z","size":3}]}"#;
        let models = as_models(&Bytes::from(tags));
        let page = std::str::from_utf8(&models).expect("JSON is text");
        assert_eq!(
            page,
            r#"{"data":[{"created":1767225600,"id":"a:latest","object":"model","owned_by":"library"}],"object":"list"}"#
        );
    }
}
