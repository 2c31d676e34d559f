//! The paths that the gateway serves.

use http::Method;
use llamatower_layers::endpoint::InvalidPath;
use llamatower_layers::{EndpointTable, RouteMatch};

use super::table::Backends;
use super::values::ExtraPath;

impl Backends {
    /// Ollama's endpoints and the extra paths. For a path that Ollama's table contains, its own
    /// rules apply: as an extra path, `/api/pull` would be open to all clients.
    ///
    /// # Errors
    /// A path cannot be compared byte for byte. The settings refuse such a path.
    pub fn endpoints(&self) -> Result<EndpointTable, InvalidPath> {
        let known = EndpointTable::ollama();
        let extra = self.extra_paths.iter();
        let mut extra = extra.filter(|extra| !is_known(&known, extra));
        extra.try_fold(known.clone(), |table, extra| {
            table.with_path(&extra.path, &extra.methods)
        })
    }

    /// Extra paths that Ollama's table already contains.
    pub(super) fn redundant_paths(&self) -> Vec<&str> {
        let known = EndpointTable::ollama();
        let extra = self.extra_paths.iter();
        let needless = extra.filter(|extra| is_known(&known, extra));
        needless.map(|extra| &*extra.path).collect()
    }
}

fn is_known(known: &EndpointTable, extra: &ExtraPath) -> bool {
    let found = known.look_up(&Method::POST, &extra.path);
    !matches!(found, RouteMatch::Unknown { .. })
}
