//! A Region that has a controller: its AWS, its queues and its execution environments.

use std::cell::RefCell;
use std::rc::Rc;

use stagedoor_aws::SdkConfig;
use stagedoor_controller::{Context, Function};
use stagedoor_lab_aws::Aws;

use super::queue::Queue;
use crate::aws::InMemoryAws;

/// A Region that has a controller.
pub(super) struct Region {
    pub(super) aws: Aws,
    pub(super) instances: InMemoryAws,
    pub(super) sdk: SdkConfig,
    /// Idle execution environments and the function of each.
    pub(super) warm: RefCell<Vec<(Function, Rc<Context>)>>,
    /// The queues of `onboard` and `purge`.
    queues: [Queue; 2],
}

impl Region {
    pub(super) async fn new(aws: Aws, instances: InMemoryAws) -> Self {
        let sdk = instances.config().await;
        Self { aws, instances, sdk, warm: RefCell::default(), queues: Default::default() }
    }

    pub(super) fn queue(&self, function: Function) -> &Queue {
        let [onboard, purge] = &self.queues;
        if function == Function::Onboard { onboard } else { purge }
    }
}
