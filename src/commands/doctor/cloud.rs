//! Checks the cloud service before its first request: with the key, and with the map of models.

use std::sync::Arc;

use http::StatusCode;
use llamatower_layers::ModelName;
use llamatower_layers::model_alias::Candidate;

use super::report::Level::{Error, Note, Warning};
use super::report::Report;
use super::server;
use crate::cloud::{Cloud, CloudClients, NoList};
use crate::settings::Settings;
use crate::shared::Sharing;

/// Asks the service for its models, if requests may be sent there.
///
/// # Errors
/// The key cannot be sent, or the certificate cannot be verified. The text names the setting.
pub(super) async fn examine(settings: &Settings, report: &mut Report) -> Result<(), String> {
    let clients = CloudClients::new(settings);
    let Some(cloud) = Cloud::new(settings, &clients, &Sharing::default())? else {
        return Ok(());
    };
    let connect = settings.timeouts.connect;
    let limit = server::patience(settings);
    let place = cloud.address();
    match cloud.listing(connect, limit).await {
        Ok(listing) if listing.unlisted.is_empty() => report.add(
            Note,
            "cloud_ready",
            place,
            format!(
                "the cloud service accepts the key, and lists all models of LLAMATOWER_CLOUD_MODELS \
                 (it lists {})",
                listing.listed
            ),
            "",
        ),
        Ok(listing) => report.add(
            Warning,
            "cloud_model_unlisted",
            place,
            format!(
                "the cloud service does not list {}, to which LLAMATOWER_CLOUD_MODELS maps a model",
                listing.unlisted.join(", ")
            ),
            "name models of the list in LLAMATOWER_CLOUD_MODELS; requests for others probably fail there",
        ),
        Err(reason) => no_list(&cloud, place, reason, report),
    }
    Ok(())
}

fn no_list(cloud: &Arc<Cloud>, place: String, reason: NoList, report: &mut Report) {
    const ADDRESS: &str = "LLAMATOWER_CLOUD_URL is the base address of clients of OpenAI's library, like \
                           https://api.groq.com/openai/v1";
    let path = cloud.list_path();
    let (code, found, change) = match reason {
        NoList::Status(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), _) => (
            "cloud_key_refused",
            format!(
                "the cloud service refuses the key in GROQ_API_KEY: it responded with {status}"
            ),
            "set GROQ_API_KEY to a valid key of this service, or correct LLAMATOWER_CLOUD_URL"
                .to_owned(),
        ),
        NoList::Status(status, text) => (
            "cloud_no_list",
            format!("the cloud service responded with {status} to {path}: {text}"),
            format!("correct the address: {ADDRESS}"),
        ),
        NoList::NotAList => (
            "cloud_no_list",
            format!("the response of the cloud service to {path} is not a list of models"),
            format!("correct the address: {ADDRESS}"),
        ),
        NoList::Unreachable(reason) => (
            "cloud_unreachable",
            format!("the cloud service cannot be reached: {reason}"),
            format!(
                "check the network and the proxies of this machine (HTTPS_PROXY, NO_PROXY); {ADDRESS}"
            ),
        ),
    };
    report.add(Error, code, place, found, change);
}

/// Whether the cloud answers requests for a model, or for one of an alias's models, that no server
/// has.
pub(super) fn answers_missing(settings: &Settings, asked: &str, models: &[Candidate]) -> bool {
    let cloud = &settings.cloud;
    let is_mapped = |model: &ModelName| cloud.models.get(model).is_some();
    cloud.when.missing
        && settings.keys.groq.is_some()
        && (ModelName::parse(asked).is_ok_and(|asked| is_mapped(&asked))
            || models.iter().any(|model| is_mapped(&model.name)))
}
