//! Every flush, rename and link is there for something: the program without it, or with it after the call that follows it,
//! loses something.

use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use omnivisor::store::trace::Call;

use super::{Case, Trace, every_case, killed_and_then_cut, recover_from_all};

impl Trace {
    /// The same without one call.
    fn without(&self, index: usize) -> Self {
        let mut trace = self.clone();
        trace.calls.remove(index);
        trace.returned.iter_mut().filter(|returned| **returned > index).for_each(|returned| *returned -= 1);
        trace
    }

    /// The same with one call after the next; none if that is another step's.
    fn swapped(&self, index: usize) -> Option<Self> {
        let mut trace = self.clone();
        if index + 1 >= trace.calls.len() || trace.returned.contains(&(index + 1)) {
            return None;
        }
        trace.calls.swap(index, index + 1);
        Some(trace)
    }
}

fn is_needed(call: &Call) -> bool {
    matches!(
        call,
        Call::Flush { .. }
            | Call::FlushFolder { .. }
            | Call::FlushAll { .. }
            | Call::Rename { .. }
            | Call::Exchange { .. }
            | Call::Link { .. }
    )
}

/// A call that could be left out: its number and its name, and of which case.
type Idle = ((usize, String), &'static str);

/// What each mutant of a case loses, one line each, and the calls that could be left out.
fn mutate(case: &Case<'_>, root: &Path) -> (Vec<String>, Vec<Idle>) {
    let trace = Trace::of(case, root);
    let (mut lines, mut idle) = (Vec::new(), Vec::new());
    for (index, call) in trace.calls.iter().enumerate().filter(|(_, call)| is_needed(call)) {
        let said = |mutant: &str, lost| format!("{}, call {index} ({}) {mutant}: {lost}", case.name, call.name());
        let loses = |trace: &Trace| recover_from_all(case, trace, root).err();
        if let Some(lost) = loses(&trace.without(index)) {
            lines.push(said("left out", lost.why));
        } else if let Some(lost) = trace.swapped(index).and_then(|trace| loses(&trace)) {
            lines.push(said("swapped with the next", lost.why));
        } else {
            idle.push(((index, call.name()), case.name));
        }
    }
    (lines, idle)
}

#[test]
fn without_any_flush_rename_or_link_something_is_lost() {
    let begun = Instant::now();
    let (all, idle) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let long = std::env::var_os("OMNIVISOR_LONG").is_some();
    every_case(|case, root| {
        if !case.strict && !long {
            return;
        }
        let (lines, unneeded) = mutate(case, root);
        all.lock().unwrap().extend(lines);
        if case.strict {
            idle.lock().unwrap().extend(unneeded);
        } else {
            unneeded.iter().for_each(|((number, call), name)| {
                println!("more than the power alone asks for: {name}, call {number} ({call})");
            });
        }
    });
    // It may be there for whoever goes on after a kill, in this case or in another one that begins so.
    let needed = Mutex::new(Vec::new());
    let some = idle.into_inner().unwrap();
    every_case(|case, root| {
        for (call, _) in some.iter().filter(|_| case.again) {
            if let Err(lost) = killed_and_then_cut(case, &Trace::of(case, root), root, Some(call)) {
                println!("{}, call {} ({}) left out after a kill: {}", case.name, call.0, call.1, lost.why);
                needed.lock().unwrap().push(call.clone());
            }
        }
    });
    let needed = needed.into_inner().unwrap();
    let idle = some.iter().filter(|(call, _)| !needed.contains(call));
    let idle: Vec<_> = idle.map(|((number, call), name)| format!("{name}, call {number} ({call})")).collect();
    let all = all.into_inner().unwrap();
    all.iter().for_each(|line| println!("{line}"));
    println!("{} mutants lose something, in {:.1} s", all.len(), begun.elapsed().as_secs_f32());
    assert!(idle.is_empty(), "these could be left out, and nothing would be lost:\n{}", idle.join("\n"));
}
