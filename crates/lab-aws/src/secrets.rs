//! `GetSecretValue` of the Secrets Manager API
//! (<https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html>). No I/O.

use secrecy::ExposeSecret;
use serde_json::json;

use crate::wire::{Answer, Ask, AwsError, not_simulated};
use crate::world::{Secret, World};

/// Carries one call out.
pub(crate) fn answer(world: &World, ask: &Ask) -> Result<Answer, AwsError> {
    match ask.action.as_str() {
        "GetSecretValue" => get_secret_value(world, ask),
        _ => Err(not_simulated(ask)),
    }
}

fn get_secret_value(world: &World, ask: &Ask) -> Result<Answer, AwsError> {
    let Some(id) = ask.text("SecretId") else {
        let message = "Invalid length for parameter SecretId, value: 0, valid min length: 1";
        return Err(AwsError::new(400, "ValidationException", message));
    };
    let not_found = |what: String| {
        AwsError::new(
            400,
            "ResourceNotFoundException",
            format!("Secrets Manager can't find the specified secret{what}."),
        )
    };
    let found = world.secrets.iter().find(|(name, secret)| is_named(name, secret, id));
    let (name, secret) = found.ok_or_else(|| not_found(String::new()))?;
    let stage = ask.text("VersionStage");
    let version = ask.text("VersionId");
    let wanted = secret.versions.iter().enumerate().find(|(index, candidate)| {
        let stages = stages(*index, secret.versions.len());
        // Without both, the current version is meant.
        let stage = stage.or_else(|| version.is_none().then_some("AWSCURRENT"));
        version.is_none_or(|id| id == candidate.id) && stage.is_none_or(|stage| stages.contains(&stage))
    });
    let (index, found) = wanted.ok_or_else(|| {
        not_found(match version {
            Some(id) => format!(" value for VersionId: {id}"),
            None => format!(" value for staging label: {}", stage.unwrap_or("AWSCURRENT")),
        })
    })?;
    Ok(Answer::Json(json!({
        "ARN": secret.arn,
        "Name": name,
        "VersionId": found.id,
        "SecretString": found.text.expose_secret(),
        "VersionStages": stages(index, secret.versions.len()),
        "CreatedDate": found.created.as_second(),
    })))
}

/// A secret goes by its name, its ARN, and its ARN without the random suffix.
fn is_named(name: &str, secret: &Secret, id: &str) -> bool {
    let without_suffix = secret.arn.rsplit_once('-').map(|(arn, _)| arn);
    id == name || id == secret.arn || Some(id) == without_suffix
}

fn stages(index: usize, versions: usize) -> &'static [&'static str] {
    match versions - index {
        1 => &["AWSCURRENT"],
        2 => &["AWSPREVIOUS"],
        _ => &[],
    }
}
