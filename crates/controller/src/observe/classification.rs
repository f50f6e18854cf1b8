//! Which groups the classifier puts nodes into, and why not into the others. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt};
use serde_json::{Map, Value, json};
use stagedoor_lifecycle::decision::Question;
use stagedoor_lifecycle::onboard::{Classified, Mismatch};
use stagedoor_puppet::{
    Classifier, Fit, Group, NodeFacts, Unmet, facts_of_rules, fit, reported_trusted_facts, trusted_facts,
};
use stagedoor_types::{ActionKey, Certname, Lookup, Service, Trouble, TroubleKind};

use super::ask;
use super::lookups::Answers;
use crate::batch::{Answer, Query};
use crate::call::{AT_ONCE, is_unauthenticated, unique};
use crate::context::{Puppet, Run};
use crate::snapshot::PuppetSnapshot;

/// The fact by which PuppetDB keeps what Puppet Server knew of the node's certificate.
const TRUSTED: &str = "trusted";

/// The facts of nodes, by name.
type Facts = BTreeMap<Certname, Map<String, Value>>;

/// Asks the classifier about these nodes, each by its certificate and, once it has run Puppet, by the facts of its newest run.
pub(super) async fn classification(
    run: Run<'_>,
    puppet: &Puppet,
    snapshot: &PuppetSnapshot,
    queries: &[&Query],
) -> Answers {
    let Some(classifier) = &puppet.classifier else {
        let absent = |query: &&Query| (query.key.clone(), Answer::Classification(Lookup::Absent));
        return Answers { all: queries.iter().map(absent).collect(), unauthenticated: false };
    };
    let no_groups = Ok(Vec::new());
    let groups = snapshot.groups.as_ref().unwrap_or(&no_groups).as_deref().map_err(Clone::clone);
    let facts = facts(run, puppet, groups.as_deref().unwrap_or_default(), queries).await;
    let asked = stream::iter(queries.iter().copied()).map(|query| {
        let (groups, facts) = (&groups, &facts);
        async move { (query.key.clone(), classified(run, classifier, groups, facts, query).await) }
    });
    let mut answers = Answers { all: Vec::new(), unauthenticated: is_unauthenticated(&facts) };
    for (key, answer) in asked.buffer_unordered(AT_ONCE).collect::<Vec<(ActionKey, _)>>().await {
        answers.unauthenticated |= answer.as_ref().is_some_and(is_unauthenticated);
        let classification = match answer {
            Some(Ok(found)) => Lookup::Found(found),
            Some(Err(trouble)) => Lookup::Unavailable(trouble),
            None => continue,
        };
        answers.all.push((key, Answer::Classification(classification)));
    }
    answers
}

/// The facts of those nodes that have run Puppet: those that the rules of the profile's groups are about, or all where the token's role
/// does not see each of these rules.
async fn facts(run: Run<'_>, puppet: &Puppet, groups: &[Group], queries: &[&Query]) -> Result<Facts, Trouble> {
    let with_facts: Vec<&Query> = queries.iter().copied().filter(|query| has_run(query)).collect();
    let names: Vec<Certname> = unique(with_facts.iter().filter_map(|query| query.certname.as_ref()));
    if names.is_empty() {
        return Ok(Facts::new());
    }
    let wanted: BTreeSet<&String> = with_facts.iter().flat_map(|query| &query.classified).collect();
    let of_rules = wanted.iter().map(|wanted| {
        let group = groups.iter().find(|group| group.name == **wanted)?;
        facts_of_rules(groups, group)
    });
    let of_rules: Option<BTreeSet<String>> = of_rules.collect::<Option<Vec<_>>>().map(|all| {
        let trusted = TRUSTED.to_owned();
        all.into_iter().flatten().chain([trusted]).collect()
    });
    ask(run, Service::PuppetDb, puppet.puppetdb.facts(&names, of_rules.as_ref())).await
}

fn has_run(query: &Query) -> bool {
    query.question == Question::Classification { with_facts: true }
}

/// How one node is classified; `None` if its own certificate is not known.
async fn classified(
    run: Run<'_>,
    classifier: &Classifier,
    groups: &Result<&[Group], Trouble>,
    facts: &Result<Facts, Trouble>,
    query: &Query,
) -> Option<Result<Classified, Trouble>> {
    let certificate = query.certificate.as_ref()?;
    let with_facts = has_run(query);
    let work = async {
        let certname: Certname = certificate.common_name().parse().map_err(|error| Trouble {
            kind: TroubleKind::Unexpected,
            service: Service::Ca,
            text: format!("the name of its certificate is no certname: {error}"),
        })?;
        let groups = groups.as_ref().map_err(Clone::clone)?;
        let (trusted, facts) = if with_facts {
            let mut facts = facts.as_ref().map_err(Clone::clone)?.get(&certname).cloned().unwrap_or_default();
            let recorded = facts.remove(TRUSTED).unwrap_or_default();
            (reported_trusted_facts(certificate, &recorded), Some(Value::Object(facts)))
        } else {
            (trusted_facts(certificate), None)
        };
        let no_facts = json!({});
        let asked = classifier.classified(&certname, facts.as_ref().unwrap_or(&no_facts), &trusted);
        let answer = ask(run, Service::Classifier, asked).await?;
        let members: BTreeSet<String> = answer.groups.into_iter().map(|group| group.name).collect();
        let node = NodeFacts { certname: &certname, trusted: &trusted, facts: facts.as_ref() };
        let missing = query.classified.iter().filter(|group| !members.contains(*group));
        let mismatches = missing.map(|group| (group.clone(), mismatch(groups, group, node))).collect();
        let known = groups.iter().map(|group| group.name.clone()).collect();
        Ok(Classified { groups: members, known, mismatches, with_facts })
    };
    Some(work.await)
}

/// Why a node is not in a group. What contradicts a rule whatever its facts are is of its certificate.
fn mismatch(groups: &[Group], wanted: &str, node: NodeFacts<'_>) -> Mismatch {
    let Some(group) = groups.iter().find(|group| group.name == wanted) else { return Mismatch::Unexplained };
    let described = |unmet: Vec<Unmet>| unmet.iter().map(ToString::to_string).collect();
    match (fit(groups, group, NodeFacts { facts: None, ..node }), fit(groups, group, node)) {
        (Fit::Contradicts(unmet), _) => Mismatch::Certificate(described(unmet)),
        (_, Fit::Contradicts(unmet)) => Mismatch::Facts(described(unmet)),
        (_, Fit::FactsNeeded) => Mismatch::FactsNeeded,
        (_, Fit::Matches | Fit::NotEvaluated) => Mismatch::Unexplained,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rule: &Value, facts: Option<&Value>) -> Mismatch {
        let groups = vec![serde_json::from_value(json!({"id": "g", "name": "Web", "rule": rule})).unwrap()];
        let certname = "n.example.net".parse().unwrap();
        let trusted = json!({"extensions": {"pp_role": "web"}});
        mismatch(&groups, "Web", NodeFacts { certname: &certname, trusted: &trusted, facts })
    }

    #[test]
    fn what_the_certificate_contradicts_is_told_from_what_facts_do() {
        let facts = json!({"os": {"family": "Debian"}});
        let by_certificate = json!(["=", ["trusted", "extensions", "pp_role"], "db"]);
        let by_fact = json!(["=", ["fact", "os", "family"], "RedHat"]);
        let both = json!(["and", by_certificate, by_fact]);
        for facts in [None, Some(&facts)] {
            assert!(matches!(of(&by_certificate, facts), Mismatch::Certificate(_)));
            assert!(matches!(of(&both, facts), Mismatch::Certificate(unmet) if unmet.len() == 1));
        }
        assert_eq!(of(&by_fact, None), Mismatch::FactsNeeded);
        assert!(matches!(of(&by_fact, Some(&facts)), Mismatch::Facts(unmet) if unmet[0].contains("Debian")));
    }

    #[test]
    fn what_the_rules_do_not_explain_is_left_unexplained() {
        assert_eq!(of(&json!(["=", "name", "n.example.net"]), None), Mismatch::Unexplained, "the classifier is behind");
        assert_eq!(of(&json!(["sounds like", "name", "n"]), None), Mismatch::Unexplained);
        let certname = "n".parse().unwrap();
        let node = NodeFacts { certname: &certname, trusted: &Value::Null, facts: None };
        assert_eq!(mismatch(&[], "Web", node), Mismatch::Unexplained);
    }
}
