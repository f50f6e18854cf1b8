//! Whether this is the fleet's account and Region, and EC2's answer whole.

use super::*;

fn disbelieved(scene: &Scene) -> Disbelief {
    match scene.unclear() {
        Unclear::Disbelieved(why) => why,
        other @ Unclear::Unavailable(_) => panic!("{other:?}"),
    }
}

#[test]
fn an_empty_answer_of_ec2_is_not_believed() {
    let mut scene = Scene::forgotten();
    scene.cloud.machines.clear();
    assert_eq!(disbelieved(&scene), Disbelief::NoInstance);
}

#[test]
fn an_answer_of_ec2_without_a_member_of_a_group_is_not_believed() {
    let mut scene = Scene::forgotten();
    scene.ec2_knows(OTHER, "running");
    scene.cloud.machines.remove(&id(MEMBER));
    assert_eq!(disbelieved(&scene), Disbelief::Gap(id(MEMBER)));
    // One that is past its hooks may be gone from EC2 already.
    scene.cloud.groups[0].members.insert(id(MEMBER), LifecycleState::parse("Terminated"));
    scene.orphan();
}

#[test]
fn where_no_group_has_opted_in_nothing_tells_that_this_is_the_right_place() {
    let mut scene = Scene::forgotten();
    scene.cloud.groups.clear();
    assert_eq!(disbelieved(&scene), Disbelief::NoGroup);
    let mut scene = Scene::forgotten();
    scene.cloud.groups[0].location = None;
    assert_eq!(disbelieved(&scene), Disbelief::NoGroup);
}

#[test]
fn groups_of_two_regions_tell_no_place() {
    let mut scene = Scene::forgotten();
    let mut other = scene.cloud.groups[0].clone();
    other.location = Location::of_arn("arn:aws:autoscaling:us-east-1:111122223333:autoScalingGroup:x:y");
    scene.cloud.groups.push(other);
    assert_eq!(disbelieved(&scene), Disbelief::TwoPlaces("eu-west-1".into(), "us-east-1".into()));
}

#[test]
fn an_arn_names_account_and_region() {
    let home = Location::of_arn("arn:aws:autoscaling:eu-west-1:111122223333:autoScalingGroup:x:autoScalingGroupName/y");
    assert_eq!(home, Some(Location { account: "111122223333".into(), region: "eu-west-1".into() }));
    assert_eq!(Location::of_arn("arn:aws:s3:::bucket"), None);
    assert_eq!(Location::of_arn("compilers"), None);
}
