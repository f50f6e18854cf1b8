//! `POST /pdb/cmd/v1`: commands are checked, queued, and carried out later. No I/O.
//! (<https://www.puppet.com/docs/puppetdb/8/api/command/v1/commands.html>)

use std::time::Duration;

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use stagedoor_lab_core::server::{Reply, Request};

use super::store::Command;
use super::{error, ok, pretty_reply};
use crate::enterprise::admission::Classes;
use crate::options::{PuppetOptions, QueueDelay};
use crate::site::Site;

/// Commands with the lowest version that is still taken.
const COMMANDS: [(&str, i64); 6] = [
    ("configure expiration", 1),
    ("deactivate node", 3),
    ("replace catalog", 6),
    ("replace catalog inputs", 1),
    ("replace facts", 4),
    ("store report", 5),
];
const PARAMETERS: [&str; 6] =
    ["command", "version", "certname", "checksum", "secondsToWaitForCompletion", "producer-timestamp"];

/// A command after the old and the new form were made one.
struct Submission {
    command: Option<String>,
    version: Option<String>,
    certname: Option<String>,
    /// Names of all parameters.
    parameters: Vec<String>,
    payload: Result<Value, String>,
}

pub(super) async fn answer(site: &Site, request: &Request, options: &PuppetOptions) -> Reply {
    let submission = match normalize(request) {
        Ok(submission) => submission,
        Err(text) => return error(StatusCode::BAD_REQUEST, &text),
    };
    let (command, certname) = match check(&submission) {
        Ok(checked) => checked,
        Err(text) => return error(StatusCode::BAD_REQUEST, &text),
    };
    let wait = request
        .query("secondsToWaitForCompletion")
        .and_then(|seconds| seconds.parse().ok())
        .map_or(Duration::ZERO, |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let now = options.on_puppetdb_clock(site.clock.now());
    let read = submission.payload.clone().and_then(|payload| read(command, certname, &payload, site, now));
    let (certname, command) = match read {
        Ok(read) => read,
        // The queue takes it; what is wrong shows only to those who wait for the end.
        Err(text) => return failed(site, &text, wait),
    };
    let delay = options.puppetdb_queue;
    let uuid = site.puppetdb().submit(&certname, command, delay, now);
    if wait.is_zero() {
        return ok(&json!({"uuid": uuid}));
    }
    if let QueueDelay::Ms(ms) = delay {
        tokio::time::sleep(Duration::from_millis(ms).min(wait)).await;
    }
    let mut store = site.puppetdb();
    store.settle(options.on_puppetdb_clock(site.clock.now()));
    let timed_out = store.is_queued(&uuid);
    let status = if timed_out { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    pretty_reply(status, &json!({"uuid": uuid, "processed": !timed_out, "timed_out": timed_out}))
}

fn failed(site: &Site, text: &str, wait: Duration) -> Reply {
    let uuid = site.puppetdb().uuid();
    if wait.is_zero() {
        return ok(&json!({"uuid": uuid}));
    }
    let body = json!({
        "uuid": uuid,
        "processed": true,
        "timed_out": false,
        "error": text,
        "stack_trace": [],
    });
    pretty_reply(StatusCode::SERVICE_UNAVAILABLE, &body)
}

/// Brings the deprecated form, everything in the body, into the current one.
fn normalize(request: &Request) -> Result<Submission, String> {
    let body = serde_json::from_slice::<Value>(&request.body);
    if let Some(command) = request.query("command") {
        return Ok(Submission {
            command: Some(command.replace('_', " ")),
            version: request.query("version").map(str::to_owned),
            certname: request.query("certname").map(str::to_owned),
            parameters: request.query.iter().map(|(key, _)| key.clone()).collect(),
            payload: body.map_err(|error| format!("com.fasterxml.jackson.core.JsonParseException: {error}")),
        });
    }
    let body = body.unwrap_or(Value::Null);
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let (command, version, payload) = (text(&body["command"]), text(&body["version"]), &body["payload"]);
    let certname = text(&payload["certname"]);
    let complain = |rest: &str| {
        Err(format!(
            "Command {} for certname {} is invalid. Command was submitted without query parameters (old \
             format). {rest}",
            printed(command.as_deref()),
            printed(certname.as_deref())
        ))
    };
    if command.is_none() || version.is_none() || payload.is_null() {
        return complain("The request body must be a JSON map with required keys: command, version, payload.");
    }
    if !payload.is_object() {
        return complain("The payload value must be a JSON map.");
    }
    let mut parameters: Vec<String> =
        body.as_object().into_iter().flat_map(|body| body.keys()).filter(|key| *key != "payload").cloned().collect();
    if certname.is_some() {
        parameters.push("certname".to_owned());
    }
    Ok(Submission { command, version, certname, parameters, payload: Ok(payload.clone()) })
}

/// The checks in PuppetDB's order; gives command and certname.
fn check(submission: &Submission) -> Result<(&'static str, &str), String> {
    let certname = submission.certname.as_deref();
    let wrong = |rest: String| {
        let command = printed(submission.command.as_deref());
        Err(format!("Command {command} for certname {} is invalid. {rest}", printed(certname)))
    };
    let sent = |name: &&str| submission.parameters.iter().any(|sent| sent == name);
    let missing: Vec<&str> = ["certname", "version", "command"].into_iter().filter(|name| !sent(name)).collect();
    if !missing.is_empty() {
        return wrong(format!("Command is missing required parameters: {}.", missing.join(", ")));
    }
    let unknown: Vec<&str> =
        submission.parameters.iter().map(String::as_str).filter(|name| !PARAMETERS.contains(name)).collect();
    if !unknown.is_empty() {
        return wrong(format!("Command has invalid parameters: {}.", unknown.join(", ")));
    }
    let Some(certname) = certname.filter(|name| !name.trim().is_empty()) else {
        return wrong("Certname must be a non-empty string.".to_owned());
    };
    let Some((command, oldest)) = COMMANDS.into_iter().find(|(name, _)| submission.command.as_deref() == Some(name))
    else {
        let names = COMMANDS.map(|(name, _)| name).join(", ");
        return wrong(format!("Command must be one of: {names}."));
    };
    let version = submission.version.as_deref().and_then(|version| version.parse::<i64>().ok());
    match version {
        None => wrong("Version must be a valid integer.".to_owned()),
        Some(version) if version < oldest => wrong(format!(
            "Version {version} of command {} is retired. The minimum supported version is {oldest}.",
            printed(Some(command))
        )),
        Some(_) => Ok((command, certname)),
    }
}

/// A string as Clojure prints it.
fn printed(text: Option<&str>) -> String {
    text.map_or_else(|| "nil".to_owned(), |text| Value::from(text).to_string())
}

/// What the payload of a command asks for. The name in the payload counts.
fn read(
    command: &str,
    certname: &str,
    payload: &Value,
    site: &Site,
    now: Timestamp,
) -> Result<(String, Command), String> {
    let certname = match (command, payload["certname"].as_str()) {
        (_, Some(name)) => name,
        ("deactivate node" | "store report", None) => {
            return Err("clojure.lang.ExceptionInfo: payload does not match schema: certname missing".to_owned());
        }
        (_, None) => certname,
    };
    let time = |key: &str| match &payload[key] {
        Value::Null => Ok(None),
        Value::String(text) => text
            .parse::<Timestamp>()
            .map(Some)
            .map_err(|_| format!("java.lang.IllegalArgumentException: Invalid format: \"{text}\"")),
        other => Err(format!("clojure.lang.ExceptionInfo: {key} is not a timestamp: {other}")),
    };
    let produced = time("producer_timestamp")?;
    let at = produced.unwrap_or(now);
    let command = match command {
        "deactivate node" => Command::Deactivate { produced },
        "replace facts" => {
            Command::Facts { produced: at, facts: payload["values"].as_object().cloned().unwrap_or_default() }
        }
        "replace catalog" => {
            let uuid = payload["catalog_uuid"].as_str().map(str::to_owned);
            Command::Catalog { produced: at, uuid, classes: Classes::default() }
        }
        "store report" => {
            let started = time("start_time")?.unwrap_or(at - SignedDuration::from_secs(10));
            let ended = time("end_time")?.unwrap_or(at);
            let status = payload["status"].as_str().unwrap_or("unchanged");
            let mut report = site.puppetdb().new_report(status, started, ended, at);
            report.catalog_uuid = payload["catalog_uuid"].as_str().map(str::to_owned);
            report.job_id = payload["job_id"].as_str().map(str::to_owned);
            report.noop = payload["noop"] == true;
            report.metrics = Some(payload["metrics"].clone()).filter(Value::is_array);
            if let Some(cached) = payload["cached_catalog_status"].as_str() {
                cached.clone_into(&mut report.cached);
            }
            Command::Report(report)
        }
        _ => Command::Nothing,
    };
    Ok((certname.to_owned(), command))
}
