//! Signing many names: in one call where the server can, or one by one. I/O.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use stagedoor_types::Certname;
use tokio::time::Instant;

use super::{CaAdmin, Rest, Signed, State, WRITE_TIMEOUT};
use crate::error::Error;
use crate::http::Ask;

/// The answer to `POST sign`: every name in one of the lists, and 200 whatever happened.
#[derive(Deserialize)]
struct Batch {
    signed: Vec<String>,
    #[serde(rename = "no-csr")]
    no_csr: Vec<String>,
    #[serde(rename = "signing-errors")]
    signing_errors: Vec<String>,
}

impl CaAdmin {
    /// `POST sign`: signs the pending CSRs of all these names, in one call where the server has it (since Puppet
    /// Server 8.4.0); otherwise name by name. Each name has a result of its own, exactly as
    /// from [`CaAdmin::sign`]: a CSR that may not be signed does not keep the others from being signed.
    pub async fn sign_all(&self, certnames: &[Certname]) -> BTreeMap<Certname, Result<Signed, Error>> {
        // For a single name the other call is as cheap, and says why.
        if certnames.len() < 2 {
            return self.sign_singly(certnames).await;
        }
        match self.post_sign(certnames).await {
            Ok(Some(batch)) => self.judge_batch(&batch, certnames).await,
            Ok(None) => self.sign_singly(certnames).await,
            Err(error) => certnames.iter().map(|name| (name.clone(), Err(error.clone()))).collect(),
        }
    }

    /// `None` when the server has no such route.
    async fn post_sign(&self, certnames: &[Certname]) -> Result<Option<Batch>, Error> {
        let names: Vec<&str> = certnames.iter().map(Certname::as_str).collect();
        let ask = Ask::new(Method::POST, "POST sign", &["puppet-ca", "v1", "sign"], WRITE_TIMEOUT)
            .about(format!("{} names", names.len()))
            .json(json!({ "certnames": names }));
        let answer = self.ca.connection.send(ask).await?;
        match answer.status {
            200 => answer.json().map(Some),
            // Old servers have no such route, and their auth.conf denies what it does not know.
            403 => Ok(None),
            404 if answer.text().trim() == "Not Found" => Ok(None),
            _ => Err(answer.into_error()),
        }
    }

    async fn judge_batch(&self, batch: &Batch, certnames: &[Certname]) -> BTreeMap<Certname, Result<Signed, Error>> {
        let mut all = BTreeMap::new();
        for certname in certnames {
            let is_in = |list: &[String]| list.iter().any(|name| name == certname.as_str());
            let signed = if is_in(&batch.signed) {
                Ok(Signed::Done)
            } else if is_in(&batch.no_csr) && !is_in(&batch.signing_errors) {
                self.without_request(certname).await
            } else {
                // The batch gives no reasons, and is not asked twice about a name that it forgot.
                self.sign(certname).await
            };
            all.insert(certname.clone(), signed);
        }
        all
    }

    /// One after another: the CA takes writes one at a time anyway. Where the next call would fail as well, the rest is not
    /// tried, and is [`Error::NotTried`].
    async fn sign_singly(&self, certnames: &[Certname]) -> BTreeMap<Certname, Result<Signed, Error>> {
        let mut all = BTreeMap::new();
        let mut rest = Rest::default();
        for certname in certnames {
            let started = Instant::now();
            let signed = match rest.not_tried("PUT certificate_status", certname) {
                Some(error) => Err(error),
                None => self.sign(certname).await,
            };
            rest.after(&signed, started.elapsed());
            all.insert(certname.clone(), signed);
        }
        all
    }

    /// Distinguishes a CSR that has been signed already from one that is missing.
    pub(super) async fn without_request(&self, certname: &Certname) -> Result<Signed, Error> {
        Ok(match self.ca.status(certname).await? {
            Some(status) if status.state == State::Signed => Signed::AlreadySigned(Box::new(status)),
            _ => Signed::NoRequest,
        })
    }
}
