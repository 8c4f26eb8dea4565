use super::*;
use crate::{flow::graph::BuildOptions, job::ErrorPolicy};

/// Brings two streams into one flow.
type Bring = fn(Stream<u32>, Stream<u32>);

#[test]
fn streams_of_two_flows_are_not_brought_together() {
    let blueprint = || {
        let limits = Arc::default();
        let options = BuildOptions { parallelism: 1, error_policy: ErrorPolicy::Fail, limits, splits: None };
        Rc::new(RefCell::new(Blueprint::new(options)))
    };
    let ways: [(&str, Bring); 5] = [
        ("union", |left, right| left.union(right).collect("out")),
        ("connect", |left, right| left.connect(right).co_map((), |(), n| n, |(), n| n).collect("out")),
        ("join", |left, right| left.key_by(|n| *n).join(right.key_by(|n| *n)).collect("out")),
        ("join_within", |left, right| {
            let within = std::time::Duration::from_secs(1);
            left.key_by(|n| *n).join_within(right.key_by(|n| *n), within).collect("out");
        }),
        ("zip", |left, right| left.zip(right).collect("out")),
    ];
    for (operator, bring) in ways {
        let (here, there) = (blueprint(), blueprint());
        bring(Flow::on(&here).from_batch(0..3u32), Flow::on(&there).from_batch(0..3u32));
        let refusal = here.borrow().refusal.clone();
        assert_eq!(refusal, Some(BuildRefusal::ForeignStream { operator: operator.to_owned() }));
    }
}
