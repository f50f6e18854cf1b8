//! What Puppet Server has logged: a line for each request, and one for each signature. Reads its file.

use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use stagedoor_types::Certname;
use tokio::time::Instant;

use crate::live::stage::LiveStage;

/// The log of Puppet Server since the beginning of a test.
pub(super) struct ServerLog {
    path: PathBuf,
    begin: usize,
}

/// What the CA did with a request that it signed, on its own clock.
pub(super) struct SignedRequest {
    /// The agent's request was stored.
    pub(super) stored: Timestamp,
    /// The controller began to read the request for the first time.
    pub(super) first_look: Timestamp,
    /// The controller had the CA sign a request, this one or another, for the first time.
    pub(super) asked: Timestamp,
    /// The certificate was written.
    pub(super) signed: Timestamp,
}

impl ServerLog {
    pub(super) fn whole(stage: &LiveStage) -> Self {
        Self { path: stage.logs.join("puppetserver.log"), begin: 0 }
    }

    /// From now on, once it shows so many lists: the server writes the line of a request after its answer.
    pub(super) async fn after(mut self, lists: usize) -> Self {
        self.until_there_are(lists).await;
        self.begin = std::fs::read(&self.path).expect("the server's log").len();
        self
    }

    /// The requests for lists of certificates, as soon as there is one.
    pub(super) async fn lists_once_there_is_one(&self) -> Vec<String> {
        self.until_there_are(1).await;
        self.lists()
    }

    async fn until_there_are(&self, lists: usize) {
        let until = Instant::now() + Duration::from_secs(180);
        while self.lists().len() < lists {
            assert!(Instant::now() < until, "the log does not show the test's own list after 180 s");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) fn has(&self, text: &str) -> bool {
        self.text().contains(text)
    }

    /// The requests for lists of certificates.
    pub(super) fn lists(&self) -> Vec<String> {
        // Where the list fails, its error and the stack trace name it, too.
        let is_list = |line: &&str| {
            line.starts_with("access ") && line.contains("certificate_statuses") && !line.contains("state=requested")
        };
        self.text().lines().filter(is_list).map(str::to_owned).collect()
    }

    /// When the request under this name was stored, read and signed. Only the controller reads requests; agents do not.
    pub(super) fn signed_request(&self, certname: &Certname) -> SignedRequest {
        let text = self.text();
        let find = |accesses: &[&str]| {
            text.lines()
                .filter_map(Access::read)
                .find(|one| accesses.iter().any(|access| one.request.starts_with(access)))
        };
        let request = format!("/puppet-ca/v1/certificate_request/{certname} HTTP/1.1\" 200 ");
        let stored = find(&[&format!("PUT {request}")]);
        let read = find(&[&format!("GET {request}")]);
        let asked = find(&["POST /puppet-ca/v1/sign ", "PUT /puppet-ca/v1/certificate_status/"]);
        // One at a time, as Puppet 7 and as Puppet 8 say it, and as a set.
        let signatures = [
            format!("Signed certificate request for {certname}"),
            format!("signed 1 certificate: {certname}."),
            format!("Signed CSR for {certname}"),
        ];
        let signed = text.lines().find(|line| signatures.iter().any(|signature| line.ends_with(signature)));
        let signed = signed.and_then(|line| line.split_whitespace().next()?.parse().ok());
        let (Some(stored), Some(read), Some(asked), Some(signed)) = (stored, read, asked, signed) else {
            panic!("{} does not show how {certname} was signed", self.path.display())
        };
        SignedRequest { stored: stored.answered, first_look: read.begun(), asked: asked.begun(), signed }
    }

    fn text(&self) -> String {
        let log = std::fs::read(&self.path).expect("the server's log");
        String::from_utf8_lossy(&log[self.begin..]).into_owned()
    }
}

/// A line of the access log: `access ADDRESS [TIME] "METHOD PATH PROTOCOL" STATUS MILLISECONDS ms`.
struct Access<'a> {
    answered: Timestamp,
    took: SignedDuration,
    /// From the method on.
    request: &'a str,
}

impl<'a> Access<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (answered, request) = line.strip_prefix("access ")?.split_once(" [")?.1.split_once("] \"")?;
        let took = request.strip_suffix(" ms")?.rsplit(' ').next()?.parse().ok()?;
        Some(Self { answered: answered.parse().ok()?, took: SignedDuration::from_millis(took), request })
    }

    fn begun(&self) -> Timestamp {
        self.answered - self.took
    }
}
