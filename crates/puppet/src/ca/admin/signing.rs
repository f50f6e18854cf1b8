//! Signing many names: in one call where the server can, or one by one. I/O.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use stagedoor_types::Certname;

use super::{CaAdmin, Signed, State, WRITE_TIMEOUT, one_by_one};
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
        let is_in = |list: &[String], name: &Certname| list.iter().any(|listed| listed == name.as_str());
        let (signed, others): (Vec<_>, Vec<_>) =
            certnames.iter().cloned().partition(|certname| is_in(&batch.signed, certname));
        let mut all = one_by_one(&others, async |certname| {
            if is_in(&batch.no_csr, certname) && !is_in(&batch.signing_errors, certname) {
                self.without_request(certname).await
            } else {
                // The batch gives no reasons, and is not asked twice about a name that it forgot.
                self.sign(certname).await
            }
        })
        .await;
        all.extend(signed.into_iter().map(|certname| (certname, Ok(Signed::Done))));
        all
    }

    async fn sign_singly(&self, certnames: &[Certname]) -> BTreeMap<Certname, Result<Signed, Error>> {
        one_by_one(certnames, async |certname| self.sign(certname).await).await
    }

    /// Distinguishes a CSR that has been signed already from one that is missing.
    pub(super) async fn without_request(&self, certname: &Certname) -> Result<Signed, Error> {
        Ok(match self.ca.status(certname).await? {
            Some(status) if status.state == State::Signed => Signed::AlreadySigned(Box::new(status)),
            _ => Signed::NoRequest,
        })
    }
}
