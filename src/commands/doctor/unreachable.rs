//! What to do about a server that does not respond as it should.

use http::StatusCode;

use super::report::Level::Error;
use super::report::Report;
use super::server::{Facts, Trouble};

/// How the address of an OpenAI-compatible server is written.
const OPENAI_ADDRESS: &str = "correct its address in OLLAMA_URL, which is openai+ and the base address of \
                              clients of OpenAI's library, like openai+http://gpu-2:8000/v1";

/// The setting that the reason names if an OpenAI-compatible server refuses the gateway's token.
const TOKENS: &str = "LLAMATOWER_BACKEND_TOKENS";

pub(super) fn report(server: &Facts, trouble: &Trouble, report: &mut Report) {
    let (name, address) = (&server.name, &server.address);
    let (code, found, change) = match trouble {
        Trouble::Unreachable(reason) if address.is_openai() && reason.contains(TOKENS) => (
            "refused",
            reason.clone(),
            format!(
                "give {}=TOKEN in {TOKENS}, or correct that entry",
                address.host()
            ),
        ),
        Trouble::Unreachable(reason) if address.is_https() => (
            "unreachable",
            reason.clone(),
            format!(
                "for certificates: LLAMATOWER_BACKEND_CA_FILE takes the authority's; otherwise start \
                 the server, or {}",
                match address.is_openai() {
                    true => OPENAI_ADDRESS,
                    false => "correct its address in OLLAMA_URL",
                }
            ),
        ),
        Trouble::Unreachable(reason) if address.is_openai() => (
            "unreachable",
            reason.clone(),
            format!(
                "start the server so that it listens at this address (if it is another machine, not \
                 only at 127.0.0.1), or {OPENAI_ADDRESS}"
            ),
        ),
        Trouble::Unreachable(reason) => (
            "unreachable",
            reason.clone(),
            "start Ollama there (with OLLAMA_HOST=0.0.0.0 in its environment if it is another \
             machine), or correct its address in OLLAMA_URL"
                .to_owned(),
        ),
        Trouble::Status(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => (
            "refused",
            format!("it responded with {status}"),
            format!(
                "give {}=TOKEN in {TOKENS}, or correct that entry; a 403 of Ollama itself means that \
                 its OLLAMA_ORIGINS or OLLAMA_HOST refuses the gateway",
                address.host()
            ),
        ),
        Trouble::Status(status) if address.is_openai() => (
            "no_list",
            format!("it responded with {status} to the request for its models"),
            OPENAI_ADDRESS.to_owned(),
        ),
        Trouble::NotOllama(reason) if address.is_openai() => {
            ("no_list", reason.clone(), OPENAI_ADDRESS.to_owned())
        }
        Trouble::Status(status) => (
            "not_ollama",
            format!("it responded with {status} to a request that every Ollama server supports"),
            "correct the address and the path in OLLAMA_URL; there may be another program at that address"
                .to_owned(),
        ),
        Trouble::NotOllama(reason) => (
            "not_ollama",
            reason.clone(),
            "correct the address in OLLAMA_URL; there may be another program at that address".to_owned(),
        ),
        Trouble::OpenAi => (
            "openai_compatible",
            "it is an OpenAI-compatible server, and no Ollama".to_owned(),
            format!("write openai+ before its address in OLLAMA_URL: openai+{}", address.url()),
        ),
    };
    report.add(Error, code, name, found, change);
}
