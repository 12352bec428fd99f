//! Every flush, rename and link is there for something: the program without it, or with it after the call that follows it,
//! loses something.

use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use omnivisor::store::trace::Call;

use super::{Case, Trace, every_case, recover_from_all};

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

/// What each mutant of a case loses, one line each, and the names of the calls that could be left out.
fn mutate(case: &Case<'_>, root: &Path) -> (Vec<String>, Vec<String>) {
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
            idle.push(format!("{}, call {index} ({})", case.name, call.name()));
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
            unneeded.iter().for_each(|call| println!("more than the power alone asks for: {call}"));
        }
    });
    let (all, idle) = (all.into_inner().unwrap(), idle.into_inner().unwrap());
    all.iter().for_each(|line| println!("{line}"));
    println!("{} mutants lose something, in {:.1} s", all.len(), begun.elapsed().as_secs_f32());
    assert!(idle.is_empty(), "these could be left out, and nothing would be lost:\n{}", idle.join("\n"));
}
