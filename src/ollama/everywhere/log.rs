//! What the log tells of a request that goes to several servers.

use std::sync::Arc;

use llamatower_layers::Record;

/// In the record of a request: it went to these servers. The backend of the record is the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AskedServers {
    /// All that were asked.
    pub(crate) asked: Vec<Arc<str>>,
    /// Those on which the request failed, or that could not be asked.
    pub(crate) failed: Vec<Arc<str>>,
}

/// Writes into the record of a request.
#[derive(Debug)]
pub(super) struct Log(Option<Record>);

impl Log {
    /// The request is sent to these servers.
    pub(super) fn begin(record: Option<Record>, asked: Vec<Arc<str>>) -> Self {
        let servers = AskedServers {
            asked,
            failed: Vec::new(),
        };
        if let Some(record) = &record {
            record.update(|outcome| outcome.extensions.insert(servers));
        }
        Self(record)
    }

    /// It has failed on these servers.
    pub(super) fn failed<'a>(&self, servers: impl Iterator<Item = &'a Arc<str>>) {
        let Some(record) = &self.0 else { return };
        let servers: Vec<_> = servers.cloned().collect();
        record.update(|outcome| {
            if let Some(asked) = outcome.extensions.get_mut::<AskedServers>() {
                asked.failed.extend(servers);
            }
        });
    }
}
