use std::collections::HashMap;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use proptest::prelude::*;

use super::*;

type Wait = BoxFuture<'static, Result<Slot, QueueFull>>;

/// Requests a slot, and queues if there is none.
fn ask(slots: &Slots, owner: &'static str, object: &'static str) -> Wait {
    let slots = slots.clone();
    let mut asked = async move { slots.take(owner, object).await }.boxed();
    match (&mut asked).now_or_never() {
        Some(slot) => std::future::ready(slot).boxed(),
        None => asked,
    }
}

fn received(wait: &mut Wait) -> Option<Slot> {
    wait.now_or_never().map(|slot| slot.expect("there is room in the queue"))
}

/// Takes as many slots as the owner may have.
fn all_of(slots: &Slots, owner: &str) -> Vec<Slot> {
    std::iter::from_fn(|| slots.try_take(owner, "")).collect()
}

fn is_as_new(slots: &Slots) -> bool {
    slots.lock().is_as_new()
}

#[test]
fn t6_an_owner_has_no_more_than_is_left_free() {
    let slots = Slots::new(Bounds::shared(256));
    let first = all_of(&slots, "first");
    assert_eq!((first.len(), slots.free()), (128, 128));
    let second = all_of(&slots, "second");
    assert_eq!((second.len(), slots.free()), (64, 64));
    // Each of any number of owners finds a slot as long as there are fewer owners than slots.
    let others: Vec<Slot> = (0..64).map(|owner| slots.try_take(&owner.to_string(), "").unwrap()).collect();
    assert!(slots.try_take("another", "").is_none());
    drop((first, others));
    assert!(slots.try_take("second", "").is_some());
    drop(second);
    assert!(is_as_new(&slots));
}

#[test]
fn t6_the_only_slot_may_be_anybodys() {
    let slots = Slots::new(Bounds::shared(1));
    let one = slots.try_take("a", "").unwrap();
    assert!(slots.try_take("b", "").is_none());
    drop(one);
    assert!(slots.try_take("b", "").is_some());
}

#[test]
fn t6_only_callers_that_may_wait_get_the_reserve_whatever_others_do() {
    let slots = Slots::new(Bounds { reserve: 2, ..Bounds::shared(4) });
    let others: Vec<Slot> = ["a", "a", "b", "c"].iter().map(|owner| slots.try_take(owner, "").unwrap()).collect();
    assert!(slots.try_take("d", "").is_none(), "the reserve is not for this");
    let own = [received(&mut ask(&slots, "d", "")).unwrap(), received(&mut ask(&slots, "d", "")).unwrap()];
    let mut third = ask(&slots, "d", "");
    assert!(received(&mut third).is_none());
    // A slot of the owner's reserve that becomes free goes to the same owner.
    let [first, second] = own;
    drop(first);
    let third = received(&mut third).unwrap();
    drop((others, second, third));
    assert!(is_as_new(&slots));
}

#[test]
fn an_object_has_no_more_than_its_part_and_holds_up_no_other() {
    let slots = Slots::new(Bounds { per_object: 1, ..Bounds::shared(8) });
    let held = slots.try_take("pod", "a").unwrap();
    assert!(slots.try_take("pod", "a").is_none());
    let mut waiting = ask(&slots, "pod", "a");
    assert!(received(&mut waiting).is_none());
    let other = received(&mut ask(&slots, "pod", "b")).unwrap();
    assert!(slots.try_take("another pod", "a").is_some(), "an object is its owner's");
    drop(held);
    let first = received(&mut waiting).unwrap();
    drop((first, other));
    assert!(is_as_new(&slots));
}

#[test]
fn t6_owners_are_served_in_turn_and_not_by_how_many_wait() {
    let slots = Slots::new(Bounds::shared(1));
    let mut held = slots.try_take("busy", "").unwrap();
    let mut waits = Vec::new();
    for (owner, count) in [("many", 5), ("few", 2), ("one", 1)] {
        waits.extend((0..count).map(|_| (owner, ask(&slots, owner, ""))));
    }
    let mut served = Vec::new();
    while !waits.is_empty() {
        drop(held);
        let next = waits.iter_mut().enumerate().find_map(|(at, (_, wait))| Some((at, received(wait)?)));
        let (at, slot) = next.expect("one is served");
        served.push(waits.remove(at).0);
        held = slot;
    }
    assert_eq!(served, ["many", "few", "one", "many", "few", "many", "many", "many"]);
    drop(held);
    assert!(is_as_new(&slots));
}

#[test]
fn t6_the_owner_with_the_fewest_slots_is_served_first() {
    let slots = Slots::new(Bounds::shared(6));
    let mut greedy = all_of(&slots, "greedy");
    let mut more = ask(&slots, "greedy", "");
    let others = [all_of(&slots, "b"), all_of(&slots, "c")];
    assert_eq!((greedy.len(), others[0].len(), others[1].len()), (3, 2, 1));
    let mut late = ask(&slots, "late", "");
    assert!(received(&mut more).is_none() && received(&mut late).is_none());
    greedy.pop();
    assert!(received(&mut more).is_none(), "it has two, and none would be left free");
    let late = received(&mut late).unwrap();
    drop((greedy, others, late));
    drop(received(&mut more).unwrap());
    assert!(is_as_new(&slots));
}

#[test]
fn t6_a_waiter_that_is_dropped_leaves_no_trace() {
    let slots = Slots::new(Bounds::shared(1));
    let held = slots.try_take("a", "x").unwrap();
    let waits: Vec<Wait> = (0..1000).map(|_| ask(&slots, "a", "y")).collect();
    drop(waits);
    let (gone, mut next) = (ask(&slots, "b", "x"), ask(&slots, "b", "x"));
    drop(held);
    // The first waiter was granted the slot, has not received it, and is dropped: the slot goes to the next one.
    assert!(received(&mut next).is_none());
    drop(gone);
    drop(received(&mut next).unwrap());
    assert!(is_as_new(&slots));
}

#[test]
fn t6_the_queue_is_bounded_and_shared_too() {
    let slots = Slots::new(Bounds { waiting: 8, ..Bounds::shared(1) });
    let held = slots.try_take("a", "").unwrap();
    let waits: Vec<Wait> = (0..4).map(|_| ask(&slots, "a", "")).collect();
    assert!(matches!(ask(&slots, "a", "").now_or_never(), Some(Err(QueueFull))));
    let mut other = ask(&slots, "b", "");
    assert!(received(&mut other).is_none());
    drop(waits);
    drop(held);
    drop(received(&mut other).unwrap());
    assert!(is_as_new(&slots));
}

/// An act of a random client. Indices refer to the slots and waiters that exist at that time.
#[derive(Clone, Copy, Debug)]
enum Act {
    TryTake(usize, usize),
    Take(usize, usize),
    Release(usize),
    Leave(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..4_usize, 0..2_usize).prop_map(|(owner, object)| Act::TryTake(owner, object)),
        (0..4_usize, 0..2_usize).prop_map(|(owner, object)| Act::Take(owner, object)),
        (0..4_usize, 0..2_usize).prop_map(|(owner, object)| Act::Take(owner, object)),
        any::<usize>().prop_map(Act::Release),
        any::<usize>().prop_map(Act::Leave),
    ]
}

const OWNERS: [&str; 4] = ["a", "b", "c", "d"];
const OBJECTS: [&str; 2] = ["x", "y"];

/// What can be observed from outside: the slots that each owner has, and the waiters in order of arrival.
struct Model {
    bounds: Bounds,
    held: Vec<Grant>,
    waiting: Vec<(u32, Ticket, &'static str, &'static str)>,
}

impl Model {
    fn shared(&self, owner: &str) -> usize {
        self.held.iter().filter(|grant| *grant.owner == *owner && grant.is_shared).count()
    }

    fn free(&self) -> usize {
        self.bounds.shared - self.held.iter().filter(|grant| grant.is_shared).count()
    }

    fn is_below_object_limit(&self, owner: &str, object: &str) -> bool {
        let on = self.held.iter().filter(|grant| *grant.owner == *owner && *grant.object == *object);
        on.count() < self.bounds.per_object
    }

    fn has_reserve(&self, owner: &str) -> bool {
        let own = self.held.iter().filter(|grant| *grant.owner == *owner && !grant.is_shared);
        own.count() < self.bounds.reserve
    }

    fn could_have(&self, owner: &str, object: &str) -> bool {
        self.is_below_object_limit(owner, object)
            && (self.has_reserve(owner) || self.shared(owner) < self.free() * self.bounds.share_factor)
    }

    /// Records that a waiter was served, and asserts that no other waiter had a better claim.
    fn serve(&mut self, number: u32, grant: Grant) {
        let at = self.waiting.iter().position(|waiter| waiter.0 == number).expect("it waits");
        let (_, _, owner, object) = self.waiting.remove(at);
        assert!(*grant.owner == *owner && *grant.object == *object && self.could_have(owner, object));
        let before = self.waiting[..at].iter().any(|waiter| (waiter.2, waiter.3) == (owner, object));
        assert!(!before, "on an object they are served in the order of coming");
        if grant.is_shared {
            let ready = self.waiting.iter().filter(|waiter| self.is_below_object_limit(waiter.2, waiter.3));
            let fewest = ready.map(|waiter| self.shared(waiter.2)).min();
            assert!(fewest.is_none_or(|fewest| self.shared(owner) <= fewest), "another one has fewer");
        }
        self.held.push(grant);
    }

    fn check(&self, state: &State<u32>) {
        assert_eq!(state.free(), self.free());
        for (_, _, owner, object) in &self.waiting {
            assert!(!self.could_have(owner, object), "{owner} waits for what it could have");
        }
        let mut on: HashMap<(&str, &str), usize> = HashMap::new();
        for grant in &self.held {
            *on.entry((&grant.owner, &grant.object)).or_default() += 1;
        }
        assert!(on.values().all(|count| *count <= self.bounds.per_object));
    }
}

fn release(state: &mut State<u32>, model: &mut Model, grant: &Grant) {
    state.release(grant);
    while let Some((number, granted)) = state.next(grant) {
        model.serve(number, granted);
    }
}

proptest! {
    #[test]
    fn t6_no_waiter_is_entitled_to_a_free_slot_and_nothing_is_left_at_the_end(
        acts in prop::collection::vec(act(), 1..200),
        shared in 0..8_usize,
        reserve in 0..3_usize,
        share_factor in 1..5_usize,
        per_object in 1..5_usize,
    ) {
        let bounds = Bounds { shared, reserve, share_factor, per_object, waiting: 16 };
        let mut state: State<u32> = State::new(bounds);
        let mut model = Model { bounds, held: Vec::new(), waiting: Vec::new() };
        for (number, act) in (0_u32..).zip(acts) {
            match act {
                Act::TryTake(owner, object) => {
                    let (owner, object) = (OWNERS[owner], OBJECTS[object]);
                    let has_share = model.shared(owner) < model.free() * bounds.share_factor;
                    let may = has_share && model.is_below_object_limit(owner, object);
                    let taken = state.take_shared(owner, object);
                    prop_assert_eq!(taken.is_some(), may);
                    model.held.extend(taken);
                }
                Act::Take(owner, object) => {
                    let (owner, object) = (OWNERS[owner], OBJECTS[object]);
                    let may = model.could_have(owner, object);
                    let taken = state.take(owner, object);
                    prop_assert_eq!(taken.is_some(), may);
                    if taken.is_none() && let Some(ticket) = state.wait(owner, object, number) {
                        model.waiting.push((number, ticket, owner, object));
                    }
                    model.held.extend(taken);
                }
                Act::Release(at) if !model.held.is_empty() => {
                    let grant = model.held.remove(at % model.held.len());
                    release(&mut state, &mut model, &grant);
                }
                Act::Leave(at) if !model.waiting.is_empty() => {
                    let (_, ticket, _, _) = model.waiting.remove(at % model.waiting.len());
                    prop_assert!(state.leave(&ticket));
                }
                Act::Release(_) | Act::Leave(_) => {}
            }
            model.check(&state);
        }
        while let Some((_, ticket, _, _)) = model.waiting.pop() {
            prop_assert!(state.leave(&ticket));
        }
        while let Some(grant) = model.held.pop() {
            release(&mut state, &mut model, &grant);
        }
        prop_assert!(state.is_as_new());
    }
}
