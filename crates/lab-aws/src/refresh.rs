//! Instance refresh with the strategy `ReplaceRootVolume`: the same instance with a new root volume. No I/O.
//!
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/replace-root-volume.html>

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::lifecycle::{Begun, Way};
use crate::passage::RootVolume;
use crate::scene::Place;
use crate::world::World;

const CAUSE: &str = "an instance refresh replaced the root volume of an instance";

impl World {
    /// Sends an instance in service through the terminating hooks, gives it a new root volume, and sends it through
    /// the launching hooks.
    pub(crate) fn replace_root_volume(&mut self, id: &str, now: Timestamp) -> anyhow::Result<Begun> {
        self.settle(now);
        let Some(instance) = self.instances.get(id) else { anyhow::bail!("there is no instance {id}") };
        let group = instance.group.as_ref().and_then(|name| self.groups.get(name));
        let Some(group) = group else { anyhow::bail!("instance {id} is in no group") };
        anyhow::ensure!(instance.state == "InService", "instance {id} is {}, not InService", instance.state);
        anyhow::ensure!(group.warm_pool.is_none(), "group {} has a warm pool: AWS refuses that", group.name);
        let events = self.begin_way(id, way(RootVolume::Replacing), &BTreeMap::new(), CAUSE, now);
        Ok(Begun { instance_id: id.to_owned(), events })
    }

    /// The terminating hooks are done: the volume is replaced, the launching hooks begin.
    pub(crate) fn root_volume_replaced(&mut self, id: &str, at: Timestamp, now: Timestamp) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        instance.root_volumes += 1;
        let activity = instance.passage.take().map(|passage| passage.activity);
        self.end_activity(activity.as_deref(), "Successful", at);
        self.begin_way(id, way(RootVolume::Replaced), &BTreeMap::new(), CAUSE, at);
        // These hooks may have timed out by now too.
        self.settle_one(id, now);
    }
}

fn way(root_volume: RootVolume) -> Way {
    Way { origin: Place::AutoScalingGroup, destination: Place::AutoScalingGroup, root_volume: Some(root_volume) }
}
