//! Tests of the breaker: a cycle in detail, and any sequence of results against a model that keeps
//! every result.

use proptest::prelude::*;

use crate::hooks::breaker::{BreakerPass, BreakerState, HookBreaker};

/// Sends requests, and records their results.
fn run(breaker: &mut HookBreaker, now_ms: u64, results: &[bool]) -> bool {
    let record = |is_failure: &bool| {
        let pass = breaker.take_pass().expect("requests may be sent");
        breaker.record(now_ms, pass, *is_failure)
    };
    results.iter().map(record).fold(false, |any, opened| any | opened)
}

#[test]
fn half_of_enough_results_open_it_and_three_probes_close_it() {
    let mut breaker = HookBreaker::new(1);
    assert!(!run(&mut breaker, 0, &[true; 19]), "too few results");
    assert!(run(&mut breaker, 0, &[true]));
    assert_eq!(breaker.state(), BreakerState::Open);
    assert!(!breaker.may_send() && breaker.take_pass().is_none());
    let until_ms = breaker.next_due_ms().unwrap();
    assert!((800..=1200).contains(&until_ms), "{until_ms}");
    assert_eq!(breaker.retry_after_ms(1), until_ms - 1);
    breaker.advance(until_ms - 1);
    assert_eq!(breaker.state(), BreakerState::Open);

    breaker.advance(until_ms);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    let probes = [(); 3].map(|()| breaker.take_pass().unwrap());
    assert!(breaker.take_pass().is_none(), "three at a time");
    assert!(!breaker.record(until_ms, probes[0], false));
    assert!(breaker.may_send(), "another one in its place");
    assert!(!breaker.record(until_ms, probes[1], false));
    assert!(!breaker.record(until_ms, probes[2], false));
    assert_eq!(breaker.state(), BreakerState::Closed);
    assert!(!run(&mut breaker, until_ms, &[true; 19]), "it counts from the beginning");
    assert_eq!(breaker.openings(), 1);
}

#[test]
fn it_is_open_for_longer_each_time_until_it_closes() {
    let mut breaker = HookBreaker::new(2);
    let mut now_ms = 70_000;
    run(&mut breaker, now_ms, &[true; 20]);
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        let open_ms = breaker.next_due_ms().unwrap() - now_ms;
        assert!((seconds * 800..=seconds * 1200).contains(&open_ms), "{seconds} s: {open_ms}");
        now_ms += open_ms;
        breaker.advance(now_ms);
        assert!(run(&mut breaker, now_ms, &[false, false, true]), "a failed probe opens it");
    }
    now_ms = breaker.next_due_ms().unwrap();
    breaker.advance(now_ms);
    assert!(!run(&mut breaker, now_ms, &[false; 3]));
    assert!(run(&mut breaker, now_ms, &[true; 20]));
    assert!(breaker.next_due_ms().unwrap() - now_ms <= 1200);
}

#[test]
fn seconds_leave_the_window() {
    let mut breaker = HookBreaker::new(3);
    run(&mut breaker, 900, &[true; 19]);
    assert!(!run(&mut breaker, 10_000, &[true]), "the first second has left");
    run(&mut breaker, 10_000, &[true; 18]);
    assert!(run(&mut breaker, 19_999, &[true]), "the eleventh has not");
    let mut breaker = HookBreaker::new(3);
    run(&mut breaker, 0, &[false; 21]);
    assert!(!run(&mut breaker, 0, &[true; 20]), "less than half");
    assert!(run(&mut breaker, 0, &[true]), "half");
}

#[test]
fn breakers_of_different_seeds_differ() {
    let until = |seed| {
        let mut breaker = HookBreaker::new(seed);
        run(&mut breaker, 0, &[true; 20]);
        breaker.next_due_ms().unwrap()
    };
    let times: std::collections::BTreeSet<u64> = (0..50).map(until).collect();
    assert!(times.len() > 20, "{times:?}");
    assert!(times.first().unwrap() < &900 && times.last().unwrap() > &1100, "{times:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Send,
    /// Records the result of one of the requests under way.
    Record(usize, bool),
    /// Sends and records so many, of which some fail.
    Many(u32, u32),
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..3000_u64).prop_map(Step::Pass),
        Just(Step::Send),
        (0..100_usize, any::<bool>()).prop_map(|(at, fails)| Step::Record(at, fails)),
        (0..100_usize).prop_map(|at| Step::Record(at, false)),
        (1..30_u32, 0..30_u32).prop_map(|(all, failures)| Step::Many(all, failures)),
    ];
    proptest::collection::vec(step, 0..120)
}

enum ModelState {
    Closed(Vec<(u64, bool)>),
    Open,
    HalfOpen { under_way: u32, successes: u32 },
}

struct Model {
    breaker: HookBreaker,
    now_ms: u64,
    state: ModelState,
    era: u32,
    in_row: u32,
    under_way: Vec<(BreakerPass, u32)>,
}

impl Model {
    fn new(seed: u64) -> Self {
        Self {
            breaker: HookBreaker::new(seed),
            now_ms: 0,
            state: ModelState::Closed(Vec::new()),
            era: 0,
            in_row: 0,
            under_way: Vec::new(),
        }
    }

    fn change(&mut self, state: ModelState) {
        (self.state, self.era) = (state, self.era + 1);
    }

    fn pass_time(&mut self, ms: u64) {
        let due_ms = self.breaker.next_due_ms();
        assert_eq!(due_ms.is_some(), matches!(self.state, ModelState::Open));
        self.now_ms += ms;
        self.breaker.advance(self.now_ms);
        if due_ms.is_some_and(|due_ms| due_ms <= self.now_ms) {
            self.change(ModelState::HalfOpen { under_way: 0, successes: 0 });
        }
    }

    fn send(&mut self) {
        let expected = match &mut self.state {
            ModelState::Closed(_) => true,
            ModelState::Open => false,
            ModelState::HalfOpen { under_way, .. } => {
                *under_way += 1;
                *under_way <= 3
            }
        };
        if let ModelState::HalfOpen { under_way, .. } = &mut self.state {
            *under_way = (*under_way).min(3);
        }
        assert_eq!(self.breaker.may_send(), expected);
        let pass = self.breaker.take_pass();
        assert_eq!(pass.is_some(), expected);
        self.under_way.extend(pass.map(|pass| (pass, self.era)));
    }

    fn record(&mut self, at: usize, fails: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let (pass, era) = self.under_way.swap_remove(at % self.under_way.len());
        assert_eq!(self.breaker.is_current(pass), era == self.era);
        let opened = self.breaker.record(self.now_ms, pass, fails);
        let mut opens = false;
        let mut closes = false;
        if era == self.era {
            match &mut self.state {
                ModelState::Closed(log) => {
                    log.push((self.now_ms / 1000, fails));
                    let recent = log.iter().filter(|(second, _)| second + 10 > self.now_ms / 1000);
                    let failures = recent.clone().filter(|(_, fails)| *fails).count();
                    opens = recent.clone().count() >= 20 && failures * 2 >= recent.count();
                }
                ModelState::Open => panic!("nothing is sent while it is open"),
                ModelState::HalfOpen { under_way, successes } => {
                    *under_way -= 1;
                    *successes += u32::from(!fails);
                    (opens, closes) = (fails, *successes == 3);
                }
            }
        }
        assert_eq!(opened, opens);
        if opens {
            self.change(ModelState::Open);
            let base_ms = [1000, 2000, 4000, 8000, 16_000, 30_000][self.in_row.min(5) as usize];
            let open_ms = self.breaker.next_due_ms().unwrap() - self.now_ms;
            assert!((base_ms * 8 / 10..=base_ms * 12 / 10).contains(&open_ms), "{open_ms}");
            self.in_row += 1;
        } else if closes {
            self.in_row = 0;
            self.change(ModelState::Closed(Vec::new()));
        }
    }

    fn check(&self) {
        let expected = match self.state {
            ModelState::Closed(_) => BreakerState::Closed,
            ModelState::Open => BreakerState::Open,
            ModelState::HalfOpen { .. } => BreakerState::HalfOpen,
        };
        assert_eq!(self.breaker.state(), expected);
    }
}

proptest! {
    #[test]
    fn it_does_what_the_list_of_all_results_demands(seed: u64, steps in any_steps()) {
        let mut model = Model::new(seed);
        for step in steps {
            match step {
                Step::Pass(ms) => model.pass_time(ms),
                Step::Send => model.send(),
                Step::Record(at, fails) => model.record(at, fails),
                Step::Many(all, failures) => for number in 0..all {
                    model.send();
                    let last = model.under_way.len().saturating_sub(1);
                    model.record(last, number < failures);
                }
            }
            model.check();
        }
    }
}
