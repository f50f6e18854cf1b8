//! Cleaning: revoke and delete many names in one call, or one by one where the server cannot. I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use stagedoor_types::Certname;

use super::{CaAdmin, Outcome, WRITE_TIMEOUT, is_file_not_found, one_by_one};
use crate::error::Error;
use crate::http::{Answer, Ask};

/// How often `clean` is tried before the names are taken one by one.
const TRIES: u32 = 3;

/// Between tries, times the number of tries.
const PAUSE: Duration = Duration::from_millis(100);

/// The result of cleaning each name.
type Cleaned = BTreeMap<Certname, Result<Outcome, Error>>;

impl CaAdmin {
    /// `PUT clean`: revokes and deletes the certificates of all these names, in one call and at
    /// the price of one, where the server has it (since Puppet Server 5.3.15, 6.14 and 7.0);
    /// otherwise name by name.
    ///
    /// Each name has a result of its own: [`Outcome::AlreadyDone`] had no certificate to clean, and one that fails does not keep
    /// the others from being cleaned. [`Error::NotTried`] means that an earlier name failed for a reason that holds for all names.
    ///
    /// A pending CSR of the same name stays where `clean` exists. Taken name by name it goes,
    /// wherever there was a certificate to delete.
    pub async fn clean(&self, certnames: &[Certname]) -> BTreeMap<Certname, Result<Outcome, Error>> {
        if certnames.is_empty() {
            return Cleaned::new();
        }
        let mut tries = 1;
        loop {
            let answer = match self.put_clean(certnames).await {
                Ok(answer) => answer,
                Err(error) => return alike(certnames, &error),
            };
            match answer.status {
                200 => return read_answer(&answer, certnames),
                // Old servers have no such route, and their auth.conf denies what it does not know.
                403 => {
                    let cleaned = self.clean_singly(certnames).await;
                    // Neither is permitted: then the remedy is that for `clean`.
                    let denied = matches!(cleaned.get(&certnames[0]), Some(Err(Error::NotPermitted { .. })));
                    return if denied { alike(certnames, &answer.into_error()) } else { cleaned };
                }
                404 if answer.text().trim() == "Not Found" => {
                    return self.clean_singly(certnames).await;
                }
                // One name whose file is gone spoils the whole batch, each time.
                500 if is_file_not_found(&answer) => return self.clean_singly(certnames).await,
                500 => match answer.into_error() {
                    // After a minute. The caller decides whether to try again.
                    locked @ Error::Locked { .. } => return alike(certnames, &locked),
                    _ if tries == TRIES => return self.clean_singly(certnames).await,
                    _ => {
                        tokio::time::sleep(PAUSE * tries).await;
                        tries += 1;
                    }
                },
                _ => return alike(certnames, &answer.into_error()),
            }
        }
    }

    async fn put_clean(&self, certnames: &[Certname]) -> Result<Answer, Error> {
        let subject = match certnames {
            [one] => one.to_string(),
            many => format!("{} names", many.len()),
        };
        let ask = Ask::new(Method::PUT, "PUT clean", &["puppet-ca", "v1", "clean"], WRITE_TIMEOUT);
        let names: Vec<&str> = certnames.iter().map(Certname::as_str).collect();
        self.ca.connection.send(ask.about(subject).json(json!({ "certnames": names }))).await
    }

    async fn clean_singly(&self, certnames: &[Certname]) -> Cleaned {
        one_by_one(certnames, async |certname| self.clean_one(certname).await).await
    }

    async fn clean_one(&self, certname: &Certname) -> Result<Outcome, Error> {
        let revoked = self.revoke(certname).await?;
        // If nothing was revoked, there is no certificate to delete; only a CSR would be deleted, which is not intended.
        if revoked == Outcome::Done {
            self.delete(certname).await?;
        }
        Ok(revoked)
    }
}

/// The result of a call that was about all of these names.
fn alike(certnames: &[Certname], error: &Error) -> Cleaned {
    certnames.iter().map(|name| (name.clone(), Err(error.clone()))).collect()
}

/// The names that were missing are listed in a Clojure vector: `["a.example" "b.example"]`. All others have been cleaned.
fn read_answer(answer: &Answer, asked: &[Certname]) -> Cleaned {
    let known = ["Successfully cleaned", "The following certs do not exist"];
    if !answer.is_from_ca(&known) {
        let error = answer.unexpected(format!("the CA does not say so: {}", answer.words()));
        return alike(asked, &error);
    }
    let text = answer.text();
    let listed = quoted(&text);
    let outcome = |name: &Certname| if listed.contains(&name.as_str()) { Outcome::AlreadyDone } else { Outcome::Done };
    asked.iter().map(|name| (name.clone(), Ok(outcome(name)))).collect()
}

/// The texts in double quotes between the first `[` and the last `]`.
fn quoted(text: &str) -> Vec<&str> {
    let vector =
        text.find('[').zip(text.rfind(']')).and_then(|(open, close)| text.get(open..close)).unwrap_or_default();
    vector.split('"').skip(1).step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_names_are_read_from_a_clojure_vector() {
        let text = r#"The following certs do not exist and cannot be revoked: ["x.example.net" "y.example.net"]"#;
        assert_eq!(quoted(text), ["x.example.net", "y.example.net"]);
        assert_eq!(quoted("Successfully cleaned all certs."), Vec::<&str>::new());
        assert_eq!(quoted("] \"a\" ["), Vec::<&str>::new());
    }
}
