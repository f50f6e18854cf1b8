//! The network between the controller and AWS: implements the SDK's HTTP client and the EC2 trait on the lab's services, in one process.
//! No sockets.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::{Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_smithy_async::time::TimeSource;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use futures_util::future::BoxFuture;
use jiff::SignedDuration;
use stagedoor_aws::Error as AwsError;
use stagedoor_controller::Instances;
use stagedoor_lab_aws::Aws;
use stagedoor_lab_core::clock::Clock;
use stagedoor_lab_core::server::{Backstage, Call, Request};
use stagedoor_types::{GroupName, InstanceId, Machine};

use crate::chance::Chance;
use crate::network::served;
use crate::watch::Watched;

/// The Regions that may have a controller. Most simulations use only the first.
pub(crate) const REGIONS: [&str; 2] = ["eu-west-1", "ap-southeast-2"];

/// The HTTP client and the EC2 client of the controller.
#[derive(Clone)]
pub(crate) struct InMemoryAws {
    pub(crate) region: &'static str,
    pub(crate) aws: Arc<Watched<Aws>>,
    pub(crate) back: Backstage,
    pub(crate) chance: Chance,
    /// How long it takes until EC2 shows a new instance.
    pub(crate) lag: SignedDuration,
}

impl fmt::Debug for InMemoryAws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InMemoryAws")
    }
}

/// The lab's clock, as the SDK's time source.
#[derive(Debug)]
struct LabTime(Clock);

impl TimeSource for LabTime {
    fn now(&self) -> SystemTime {
        self.0.now().into()
    }
}

impl InMemoryAws {
    /// The SDK's configuration, as in production except for the network, the clock and the credentials.
    pub(crate) async fn config(&self) -> SdkConfig {
        stagedoor_aws::connect::defaults()
            .region(Region::new(self.region))
            .credentials_provider(Credentials::new("AKIASIMULATION", "not-a-secret", None, None, "simulation"))
            .http_client(self.clone())
            .time_source(LabTime(self.back.clock.clone()))
            .load()
            .await
    }

    async fn send(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let closed = || ConnectorError::io("the connection was closed".into());
        let uri: http::Uri =
            request.uri().parse().map_err(|error: http::uri::InvalidUri| ConnectorError::user(error.into()))?;
        let mut headers = http::HeaderMap::new();
        for (name, value) in request.headers() {
            let pair = http::HeaderName::try_from(name).ok().zip(http::HeaderValue::try_from(value).ok());
            headers.extend(pair.map(|(name, value)| (Some(name), value)));
        }
        let query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let received = Request {
            method: http::Method::try_from(request.method()).map_err(|error| ConnectorError::user(error.into()))?,
            path: uri.path().to_owned(),
            query,
            headers,
            body: request.body().bytes().unwrap_or_default().to_vec().into(),
            peer: None,
        };
        self.chance.delay().await;
        let reply = served(received, &self.aws, &self.back).await.ok_or_else(closed)?;
        self.chance.delay().await;
        let status = reply.status().as_u16().try_into().map_err(|_| closed())?;
        let mut response = HttpResponse::new(status, SdkBody::from(reply.body().to_vec()));
        for (name, value) in reply.headers() {
            if let Ok(value) = value.to_str() {
                response.headers_mut().insert(name.as_str().to_owned(), value.to_owned());
            }
        }
        Ok(response)
    }
}

impl HttpConnector for InMemoryAws {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.clone().send(request))
    }
}

impl HttpClient for InMemoryAws {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

/// EC2 without its SDK. Its calls are recorded in the journal and can fail like all others.
impl Instances for InMemoryAws {
    fn machines<'a>(&'a self, instances: &'a [InstanceId]) -> BoxFuture<'a, Result<Vec<Machine>, AwsError>> {
        Box::pin(self.described(move |machine| instances.contains(&machine.instance)))
    }

    fn machines_of<'a>(&'a self, groups: &'a [GroupName]) -> BoxFuture<'a, Result<Vec<Machine>, AwsError>> {
        let of = move |machine: &Machine| {
            let group = machine.tags.get("aws:autoscaling:groupName");
            groups.iter().any(|name| group.is_some_and(|group| group == name.as_str()))
        };
        Box::pin(self.described(of))
    }
}

impl InMemoryAws {
    async fn described(&self, wanted: impl Fn(&Machine) -> bool + Send) -> Result<Vec<Machine>, AwsError> {
        self.chance.delay().await;
        let call = Call {
            service: "ec2",
            call: "DescribeInstances".to_owned(),
            subject: None,
            caller: None,
            request: serde_json::Value::Null,
        };
        let hit = self.back.faults.strike(&call);
        let open = self.back.journal.begin(call);
        if hit.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(hit.delay_ms)).await;
        }
        if hit.failure.is_some() {
            open.end(Some(503));
            return Err(AwsError::Unreachable {
                call: "DescribeInstances",
                subject: "instances".into(),
                message: "a fault".into(),
            });
        }
        let since = self.back.clock.now() - self.lag;
        let shown = self.aws.inner.machines().into_iter().filter(|machine| machine.launched <= since);
        let machines = shown.filter_map(machine).filter(wanted).collect();
        open.end(Some(200));
        self.chance.delay().await;
        Ok(machines)
    }
}

fn machine(shown: stagedoor_lab_aws::Machine) -> Option<Machine> {
    let gone = shown.state == "terminated";
    let mut tags = shown.tags;
    tags.extend(shown.group.map(|group| ("aws:autoscaling:groupName".to_owned(), group)));
    Some(Machine {
        instance: shown.id.parse().ok()?,
        state: shown.state.to_owned(),
        private_dns: Some(shown.private_dns).filter(|_| !gone),
        private_ip: shown.private_ip.filter(|_| !gone).and_then(|address| address.parse().ok()),
        ipv6: shown.ipv6.filter(|_| !gone).and_then(|address| address.parse().ok()),
        launched: Some(shown.launched),
        terminated: shown.terminated,
        tags,
    })
}
