//! One chat as a stream, by a client library: what the library makes of its end.
//!
//!     broken-streams URL CLIENT
//!
//! The last line of the output is "ended after N" or "failed after N: TEXT".

use std::error::Error;

use futures_util::{Stream, StreamExt};
use genai::adapter::AdapterKind;
use genai::chat::{ChatMessage, ChatRequest};
use genai::resolver::{AuthData, Endpoint, ServiceTargetResolver};
use genai::{Client, ModelIden, ServiceTarget};
use ollama_rs::Ollama;
use ollama_rs::generation::chat::ChatMessage as OllamaMessage;
use ollama_rs::generation::chat::request::ChatMessageRequest;

const MODEL: &str = "small";
const PROMPT: &str = "the llama";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(client)) = (arguments.next(), arguments.next()) else {
        return Err("broken-streams URL CLIENT".into());
    };
    match &*client {
        "ollama-rs" => ollama_rs(&url).await,
        "genai ollama" => genai(AdapterKind::Ollama, format!("{url}/")).await,
        "genai openai" => genai(AdapterKind::OpenAI, format!("{url}/v1/")).await,
        other => Err(format!("there is no client {other}").into()),
    }
}

async fn report<T, E: std::fmt::Debug>(stream: impl Stream<Item = Result<T, E>>) {
    let mut stream = std::pin::pin!(stream);
    let mut parts = 0;
    while let Some(part) = stream.next().await {
        if let Err(error) = part {
            return println!("failed after {parts}: {error:?}");
        }
        parts += 1;
    }
    println!("ended after {parts}");
}

async fn ollama_rs(url: &str) -> Result<(), Box<dyn Error>> {
    let messages = vec![OllamaMessage::user(PROMPT.into())];
    let request = ChatMessageRequest::new(MODEL.into(), messages);
    let client = Ollama::try_new(url)?;
    report(client.send_chat_messages_stream(request).await?).await;
    Ok(())
}

async fn genai(kind: AdapterKind, base: String) -> Result<(), Box<dyn Error>> {
    let target = move |target: ServiceTarget| -> Result<_, genai::resolver::Error> {
        Ok(ServiceTarget {
            endpoint: Endpoint::from_owned(base.clone()),
            auth: AuthData::from_single("unused"),
            model: ModelIden::new(kind, target.model.model_name),
        })
    };
    let resolver = ServiceTargetResolver::from_resolver_fn(target);
    let client = Client::builder()
        .with_service_target_resolver(resolver)
        .build()?;
    let request = ChatRequest::new(vec![ChatMessage::user(PROMPT)]);
    let answer = client.exec_chat_stream(MODEL, request, None).await?;
    report(answer.stream).await;
    Ok(())
}
