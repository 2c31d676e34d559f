//! Three simulated Ollama servers of different kinds, and commands to try.

use std::io;
use std::time::Duration;

use llamatower_sim::{ModelSpec, Sim, SimHandle};

use crate::edge::ListenAddr;
use crate::ollama::upstream::Address;
use crate::settings::Listening;

/// The simulated servers; they stop when this is dropped.
#[derive(Debug)]
pub struct Backends(Vec<SimHandle>);

impl Backends {
    /// The servers' addresses.
    pub fn addresses(&self) -> Vec<Address> {
        let urls = self.0.iter().map(SimHandle::url);
        urls.filter_map(|url| url.parse().ok()).collect()
    }
}

/// Starts a fast server, a slow one, and one that has only an embedding model.
///
/// # Errors
/// No free port.
pub async fn start() -> io::Result<Backends> {
    let milliseconds = Duration::from_millis;
    let qwen = ModelSpec::new("qwen2.5-coder:7b")
        .with_load_time(milliseconds(300))
        .with_pace(milliseconds(15))
        .with_slots(4)
        .with_reply_tokens(60);
    let llama = ModelSpec::new("llama3.3:70b")
        .with_load_time(milliseconds(1500))
        .with_pace(milliseconds(80))
        .with_slots(2)
        .with_reply_tokens(60);
    let nomic = ModelSpec::new("nomic-embed-text").embedding_only();
    let fast = Sim::builder().model(qwen.clone());
    let slow = Sim::builder()
        .model(qwen.with_pace(milliseconds(40)))
        .model(llama);
    let embedding = Sim::builder().model(nomic);
    let mut started = Vec::new();
    for (seed, builder) in [fast, slow, embedding].into_iter().enumerate() {
        started.push(builder.seed(seed as u64 + 7).start().await?);
    }
    Ok(Backends(started))
}

/// Commands to try, for a user who has just started the demo.
pub fn commands_to_try(public: &Listening, admin: &Listening) -> Option<String> {
    let listen = public.addresses.first()?;
    let url = url(public, listen);
    // Without a scheme, as it is usually written, if that is enough.
    let ollama_host = url.strip_prefix("http://").unwrap_or(&url).to_owned();
    let page = match admin.addresses.first() {
        Some(address) => {
            let admin = self::url(admin, address);
            format!(
                "The status page, with what happens here live: {admin}/\n\
                 The same in a terminal: llamatower top --admin-url {admin}"
            )
        }
        None => "The status page is off, because LLAMATOWER_ADMIN_LISTEN is.".to_owned(),
    };
    Some(format!(
        r#"llamatower listens at {url} in front of three simulated Ollama servers:
  a fast one with qwen2.5-coder:7b, a slow one with qwen2.5-coder:7b and llama3.3:70b,
  and one with nomic-embed-text. Try, in another terminal:

  curl {url}/api/tags
  curl -N {url}/api/chat -d '{{"model":"qwen2.5-coder:7b","messages":[{{"role":"user","content":"Why a tower?"}}]}}'
  curl -N {url}/v1/chat/completions -H 'content-type: application/json' \
       -d '{{"model":"llama3.3:70b","stream":true,"messages":[{{"role":"user","content":"Why a llama?"}}]}}'
  curl {url}/api/embed -d '{{"model":"nomic-embed-text","input":"a tower"}}'

  python3 -c "import ollama; print(ollama.Client('{url}').list())"
  python3 -c "from openai import OpenAI; c = OpenAI(base_url='{url}/v1', api_key='none'); print([m.id for m in c.models.list()])"
  OLLAMA_HOST={ollama_host} ollama list

{page}
Each request is shown below as it ends. Ctrl-C ends it all.

"#
    ))
}

/// The URL that a client on this machine uses.
fn url(listening: &Listening, address: &ListenAddr) -> String {
    let scheme = match listening.tls.contains(address) {
        true => "https",
        false => "http",
    };
    format!("{scheme}://{}", reachable(address))
}

/// Host and port that a client on this machine uses.
fn reachable(listen: &ListenAddr) -> String {
    match listen {
        ListenAddr::Tcp(addr) if addr.ip().is_unspecified() => format!("127.0.0.1:{}", addr.port()),
        listen => listen.to_string(),
    }
}
