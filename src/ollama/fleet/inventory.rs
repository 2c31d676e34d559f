//! What an Ollama server says about its models: the rows of `/api/tags` and `/api/ps`.
//!
//! A row needs a valid name. Any other field that is missing or has another type than in Ollama
//! counts as unknown, so that a newer or older server is still understood.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use llamatower_layers::llm_request::ModelName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use tokio::sync::Notify;

use super::preload::Starts;
use crate::openai::models::UNKNOWN_DIGEST;

/// A model that a server has on its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its name.
    pub name: ModelName,
    /// The digest of its contents, independent of the name; empty if the server sends none.
    pub digest: Arc<str>,
    /// Size on disk, in bytes; 0 if the server sends none.
    pub size: u64,
    /// The family of its architecture, like `llama`; empty if the server sends none.
    pub family: Arc<str>,
    /// What it can do, like `completion`, `embedding`, `tools`. Ollama 0.17 and older send none.
    pub capabilities: Arc<[Arc<str>]>,
}

/// A model that a server has in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resident {
    /// Its name.
    pub name: ModelName,
    /// The digest of its contents; empty if the server sends none.
    pub digest: Arc<str>,
    /// Memory in bytes, including that of its slots.
    pub size: u64,
    /// The part of [`size`](Self::size) that is in the memory of graphics cards.
    pub size_vram: u64,
    /// Tokens per slot.
    pub context_length: Option<u64>,
    /// When the server unloads it if no request uses it.
    pub expires_at: Option<Timestamp>,
}

impl Installed {
    /// Reads a response to `/api/tags`. Rows without a valid name are skipped.
    ///
    /// # Errors
    /// The response is not such a list.
    pub fn read_list(page: &[u8]) -> serde_json::Result<Vec<Self>> {
        #[derive(Deserialize)]
        struct Row {
            name: String,
            #[serde(default, deserialize_with = "lenient")]
            digest: String,
            #[serde(default, deserialize_with = "lenient")]
            size: u64,
            #[serde(default, deserialize_with = "lenient")]
            details: Details,
            #[serde(default, deserialize_with = "lenient")]
            capabilities: Vec<String>,
        }
        #[derive(Default, Deserialize)]
        struct Details {
            #[serde(default, deserialize_with = "lenient")]
            family: String,
        }
        let rows: Vec<Row> = rows(page)?;
        let installed = rows.into_iter().filter_map(|row| {
            Some(Self {
                name: ModelName::parse(&row.name).ok()?,
                digest: known_digest(row.digest),
                size: row.size,
                family: row.details.family.into(),
                capabilities: row.capabilities.into_iter().map(Arc::from).collect(),
            })
        });
        Ok(installed.collect())
    }
}

impl Resident {
    /// Reads a response to `/api/ps`. Rows without a valid name are skipped.
    ///
    /// # Errors
    /// The response is not such a list.
    pub fn read_list(page: &[u8]) -> serde_json::Result<Vec<Self>> {
        #[derive(Deserialize)]
        struct Row {
            name: String,
            #[serde(default, deserialize_with = "lenient")]
            digest: String,
            #[serde(default, deserialize_with = "lenient")]
            size: u64,
            #[serde(default, deserialize_with = "lenient")]
            size_vram: u64,
            #[serde(default, deserialize_with = "lenient")]
            context_length: Option<u64>,
            #[serde(default, deserialize_with = "lenient")]
            expires_at: Option<Timestamp>,
        }
        let rows: Vec<Row> = rows(page)?;
        let resident = rows.into_iter().filter_map(|row| {
            Some(Self {
                name: ModelName::parse(&row.name).ok()?,
                digest: known_digest(row.digest),
                size: row.size,
                size_vram: row.size_vram,
                context_length: row.context_length,
                expires_at: row.expires_at,
            })
        });
        Ok(resident.collect())
    }
}

/// The beginning of a digest, as long as `ollama list` shows it.
pub fn short_digest(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// Empty for the digest that stands for unknown contents.
fn known_digest(digest: String) -> Arc<str> {
    match digest == UNKNOWN_DIGEST {
        true => "".into(),
        false => digest.into(),
    }
}

/// The rows of both lists. Some versions send null for an empty list.
fn rows<T: DeserializeOwned>(page: &[u8]) -> serde_json::Result<Vec<T>> {
    #[derive(Deserialize)]
    struct Page<T> {
        models: Option<Vec<T>>,
    }
    let page: Page<T> = serde_json::from_slice(page)?;
    Ok(page.models.unwrap_or_default())
}

/// The default for a value of another type.
fn lenient<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// The list as last read.
#[derive(Clone, Default)]
pub(super) struct Listing {
    /// `None` if the backend has no such list.
    pub(super) list: Option<Arc<[Resident]>>,
    /// The starts of the backend that were known when it was asked.
    pub(super) starts: Starts,
}

/// The models in a backend's memory as last read, and the requests to read them again.
#[derive(Default)]
pub(super) struct Residency {
    /// `None` if it was not read since the backend came up.
    known: Mutex<Option<Listing>>,
    /// The models that the server was told to unload, and how many more lists may still have them:
    /// Ollama answers before it has unloaded.
    leaving: Mutex<Vec<(ModelName, u32)>>,
    asked: Notify,
}

/// An unloaded model that stays in so many lists is in memory again, or still.
const MOST_LISTS_WHILE_LEAVING: u32 = 50;

impl Residency {
    /// `None` if they are not known.
    pub(super) fn get(&self) -> Option<Arc<[Resident]>> {
        self.known().as_ref()?.list.clone()
    }

    /// What was read since the backend came up.
    pub(super) fn read(&self) -> Option<Listing> {
        self.known().clone()
    }

    /// Sets the list that the backend has sent.
    pub(super) fn set(&self, listing: Listing) {
        *self.known() = Some(listing);
    }

    /// Forgets the list, because the backend is down, or was.
    pub(super) fn forget(&self) {
        *self.known() = None;
    }

    /// Asks for the list to be read until it has this model no more, which was unloaded.
    pub(super) fn note_unloaded(&self, model: &ModelName) {
        let mut leaving = self.leaving();
        leaving.retain(|(known, _)| known != model);
        leaving.push((model.clone(), MOST_LISTS_WHILE_LEAVING));
        drop(leaving);
        self.ask();
    }

    /// Whether a list that was just read has a model that is about to leave memory.
    pub(super) fn has_leaving(&self, listed: &[Resident]) -> bool {
        let mut leaving = self.leaving();
        leaving.retain_mut(|(model, left)| {
            *left = left.saturating_sub(1);
            *left > 0 && listed.iter().any(|row| row.name == *model)
        });
        !leaving.is_empty()
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<(ModelName, u32)>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Option<Listing>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the list to be read again soon. Requests during a read result in one more read,
    /// because the current one may have begun too early.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Waits until the list is to be read again. Only one task may wait.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }
}

impl fmt::Debug for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.get(), f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn installed_models_are_read_from_the_lists_of_both_old_and_new_servers() {
        let page = br#"{"models":[{"name":"tiny:latest","model":"tiny:latest","modified_at":"2026-11-23T07:05:08.118267969Z","size":487851,"digest":"7a03","details":{"parent_model":"","format":"gguf","family":"llama","families":["llama"],"context_length":2048},"capabilities":["completion","tools"]},{"name":"old"},{"name":"no/such@name"}]}"#;
        let [tiny, old] = <[Installed; 2]>::try_from(Installed::read_list(page).unwrap()).unwrap();
        assert_eq!((tiny.size, &*tiny.digest), (487_851, "7a03"));
        assert_eq!(&*tiny.family, "llama");
        let can: Vec<_> = tiny.capabilities.iter().map(|can| &**can).collect();
        assert_eq!(can, ["completion", "tools"]);
        assert_eq!(old.name.to_string(), "old:latest");
        assert!(old.capabilities.is_empty() && old.size == 0 && old.digest.is_empty());
    }

    #[test]
    fn resident_models_are_read_with_their_memory_and_expiry() {
        let page = br#"{"models":[{"name":"tiny:latest","model":"tiny:latest","size":5735709,"digest":"7a03","details":{"family":"llama"},"expires_at":"2026-11-23T07:10:38.250306201Z","size_vram":7,"context_length":2048}]}"#;
        let tiny = &Resident::read_list(page).unwrap()[0];
        assert_eq!(tiny.name, ModelName::parse("tiny").unwrap());
        assert_eq!((tiny.size, tiny.size_vram), (5_735_709, 7));
        assert_eq!(tiny.context_length, Some(2048));
        let expires_at = "2026-11-23T07:10:38.250306201Z".parse().unwrap();
        assert_eq!(tiny.expires_at, Some(expires_at));
    }

    #[test]
    fn a_field_of_another_type_is_unknown_and_the_row_stays() {
        let page = br#"{"models":[{"name":"a","size":-1,"size_vram":"much","context_length":null,"expires_at":"soon","digest":7}]}"#;
        let a = &Resident::read_list(page).unwrap()[0];
        assert_eq!((a.size, a.size_vram), (0, 0));
        assert_eq!((a.context_length, a.expires_at), (None, None));
        let page = br#"{"models":[{"name":"a","details":null,"capabilities":null,"size":"1"}]}"#;
        assert!(
            Installed::read_list(page).unwrap()[0]
                .capabilities
                .is_empty()
        );
    }

    #[test]
    fn requests_to_read_the_list_again_become_one() {
        let residency = Residency::default();
        (0..3).for_each(|_| residency.ask());
        assert!(residency.asked().now_or_never().is_some());
        assert!(residency.asked().now_or_never().is_none());
        residency.ask();
        assert!(residency.asked().now_or_never().is_some());
    }

    #[test]
    fn the_list_is_read_until_it_lacks_a_model_that_was_unloaded() {
        let page = br#"{"models":[{"name":"a"},{"name":"b"}]}"#;
        let both = Resident::read_list(page).unwrap();
        let residency = Residency::default();
        assert!(!residency.has_leaving(&both));
        residency.note_unloaded(&ModelName::parse("a").unwrap());
        assert!(residency.asked().now_or_never().is_some());
        assert!(residency.has_leaving(&both));
        assert!(!residency.has_leaving(&both[1..]));
        assert!(!residency.has_leaving(&both), "it was loaded again");
        residency.note_unloaded(&ModelName::parse("a").unwrap());
        let reads = std::iter::repeat_with(|| residency.has_leaving(&both));
        let more = reads.take(100).filter(|again| *again).count();
        assert_eq!(more, MOST_LISTS_WHILE_LEAVING as usize - 1);
    }

    #[test]
    fn null_is_an_empty_list_and_another_page_is_no_list() {
        assert!(
            Resident::read_list(br#"{"models":null}"#)
                .unwrap()
                .is_empty()
        );
        for page in ["", "404 page not found", "[]", r#"{"models":3}"#] {
            assert!(Resident::read_list(page.as_bytes()).is_err(), "{page}");
            assert!(Installed::read_list(page.as_bytes()).is_err(), "{page}");
        }
    }
}
