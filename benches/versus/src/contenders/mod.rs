//! The compared proxies.

mod configure;
mod find;
mod start;

use std::{net::SocketAddr, path::PathBuf};

use crate::{
    Error,
    cores::LostTimeMeter,
    cpu::{Priority, Processes},
    observed::Observers,
    shapes::Dialect,
    shared::{self, Limits},
    tls::Tls,
};

pub(crate) use find::find;

/// Without this, LiteLLM fetches prices from the internet at its start.
const LITELLM_OFFLINE: &str = "LITELLM_LOCAL_MODEL_COST_MAP";

/// What stands before the address of an Ollama server in the gateway's settings.
pub(crate) const OLLAMA: &str = "";

/// What stands before the address of an OpenAI-compatible server.
pub(crate) const OPENAI: &str = "openai+";

/// The kind of a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Direct,
    Nginx(RequestBuffering),
    Haproxy,
    /// The value of `LLAMATOWER_LOG`.
    Llamatower(&'static str),
    PlainHyper,
    Litellm,
    Portkey,
}

/// How nginx handles the body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestBuffering {
    /// It forwards the body as it arrives.
    Off,
    /// It reads the whole body first, and keeps up to 1 MiB in memory; a larger body goes to a
    /// file.
    OneMebibyte,
}

/// A proxy that can be started.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    kind: Kind,
    program: PathBuf,
    core: usize,
    priority: Priority,
    /// The dialect of its clients.
    dialect: Dialect,
    /// The kind of its servers, in the gateway's settings.
    servers: &'static str,
    /// Who looks at it; only the gateway has observers.
    observers: Observers,
    /// Where its limits are; only the gateway has limits.
    limits: Limits,
    /// TLS for clients, if it speaks it.
    tls: Option<Tls>,
}

impl Contender {
    #[cfg(test)]
    pub(crate) fn fake(name: &'static str, version: &str) -> Self {
        let version = version.to_owned();
        Self {
            name,
            version,
            kind: Kind::Direct,
            program: PathBuf::new(),
            core: 0,
            priority: Priority::Usual,
            dialect: Dialect::Ollama,
            servers: OLLAMA,
            observers: Observers::Nobody,
            limits: Limits::None,
            tls: None,
        }
    }

    /// Starts to measure the lost time of the cores while the contender runs as these processes.
    pub(crate) async fn loss_meter(
        &self,
        processes: Option<&Processes>,
    ) -> Result<LostTimeMeter, Error> {
        match processes {
            Some(processes) if self.priority == Priority::First => {
                LostTimeMeter::both_cores(self.core, processes.clone()).await
            }
            _ => Ok(LostTimeMeter::own_core()),
        }
    }

    /// Its API dialect.
    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The same proxy for clients and in front of servers of another dialect.
    pub(crate) fn between(
        &self,
        name: &'static str,
        dialect: Dialect,
        servers: &'static str,
    ) -> Self {
        Self {
            name,
            dialect,
            servers,
            ..self.clone()
        }
    }

    /// The same gateway with observers.
    pub(crate) fn observed_by(&self, name: &'static str, observers: Observers) -> Self {
        Self {
            name,
            observers,
            ..self.clone()
        }
    }

    /// The same gateway with limits.
    pub(crate) fn limited(&self, name: &'static str, limits: Limits) -> Self {
        Self {
            name,
            limits,
            ..self.clone()
        }
    }

    /// The same proxy with this TLS for clients.
    pub(crate) fn with_tls(&self, name: &'static str, tls: Option<Tls>) -> Self {
        Self {
            name,
            tls,
            ..self.clone()
        }
    }

    /// The headers that it needs to forward a request.
    pub(crate) fn headers(&self, backends: &[SocketAddr]) -> String {
        match self.kind {
            Kind::Litellm => "Authorization: Bearer sk-versus\r\n".to_owned(),
            Kind::Portkey => format!(
                "Authorization: Bearer sk-versus\r\nx-portkey-provider: ollama\r\n\
                 x-portkey-custom-host: http://{}\r\n",
                backends[0]
            ),
            _ => shared::header(self.limits),
        }
    }

    /// The factor by which its load is reduced, because it would take hours otherwise.
    pub(crate) fn slower(&self) -> usize {
        match self.kind {
            Kind::Litellm => 40,
            Kind::Portkey => 10,
            _ => 1,
        }
    }
}
