//! The documents that AWS sends when a lifecycle action begins. No I/O.
//!
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-event-reference.html>,
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks-overview.html>

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::passage::{Action, Passage};
use crate::scene::Transition;
use crate::world::{ACCOUNT, Group, iso};

/// One lifecycle action in the two forms in which AWS sends it.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// The EventBridge document.
    pub eventbridge: Value,
    /// The flat document of a hook's SNS or SQS notification target.
    pub notification: Value,
}

impl Event {
    pub(crate) fn of(
        region: &str,
        group: &Group,
        instance: &str,
        passage: &Passage,
        action: &Action,
        now: Timestamp,
    ) -> Self {
        let transition = passage.transition();
        let mut detail = json!({
            "LifecycleActionToken": action.token,
            "AutoScalingGroupName": group.name,
            "LifecycleHookName": action.hook,
            "EC2InstanceId": instance,
            "LifecycleTransition": transition.aws_name(),
            "Origin": passage.origin.aws_name(),
            "Destination": passage.destination.aws_name(),
        });
        if let Some(metadata) = &action.metadata {
            detail["NotificationMetadata"] = json!(metadata);
        }
        if passage.root_volume.is_some() {
            detail["Action"] = json!("ReplaceRootVolume");
        }
        let mut notification = detail.clone();
        notification["AccountId"] = json!(ACCOUNT);
        notification["RequestId"] = json!(Uuid::new_v4().to_string());
        notification["Service"] = json!("AWS Auto Scaling");
        notification["Time"] = json!(iso(now));
        let detail_type = match transition {
            Transition::Launching => "EC2 Instance-launch Lifecycle Action",
            Transition::Terminating => "EC2 Instance-terminate Lifecycle Action",
        };
        let eventbridge = json!({
            "version": "0",
            "id": Uuid::new_v4().to_string(),
            "detail-type": detail_type,
            "source": "aws.autoscaling",
            "account": ACCOUNT,
            "time": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "region": region,
            "resources": [group.arn],
            "detail": detail,
        });
        Self { eventbridge, notification }
    }
}
