//! Which backups are kept, and which may go.
//!
//! The newest is always kept, and so is what an upgrade could still go back with. What is damaged is not asked about here: it
//! counts for nothing, and only a person removes it.

use std::time::Duration;

use crate::time::Timestamp;

/// A good backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub id: String,
    /// When it was taken.
    pub taken: Timestamp,
    /// How many bytes it takes.
    pub bytes: u64,
    /// Whether an upgrade may still go back with it.
    pub needed: bool,
}

/// What is kept: all of it, where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// The newest ones, so many.
    pub count: Option<u32>,
    /// What is not older than this.
    pub age: Option<Duration>,
    /// The newest ones that take no more bytes than this together.
    pub bytes: Option<u64>,
}

impl Retention {
    /// What may go, by name, the oldest first. Each limit is kept, but for what is always kept.
    pub fn expendable(&self, now: Timestamp, good: &[Stored]) -> Vec<String> {
        let mut newest_first: Vec<&Stored> = good.iter().collect();
        newest_first.sort_by(|one, other| (other.taken, &other.id).cmp(&(one.taken, &one.id)));
        let (mut count, mut bytes) = (0, 0_u64);
        let mut expendable = Vec::new();
        for (index, stored) in newest_first.into_iter().enumerate() {
            let after = bytes.saturating_add(stored.bytes);
            let is_over = self.count.is_some_and(|most| count >= most)
                || self.age.is_some_and(|most| now.since(stored.taken) > most)
                || self.bytes.is_some_and(|most| after > most);
            if index > 0 && is_over && !stored.needed {
                expendable.push(stored.id.clone());
            } else {
                count += 1;
                bytes = after;
            }
        }
        expendable.reverse();
        expendable
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn days(days: u32) -> Timestamp {
        Timestamp::EPOCH.plus(DAY * days)
    }

    fn stored(day: u32, bytes: u64) -> Stored {
        Stored { id: day.to_string(), taken: days(day), bytes, needed: false }
    }

    fn expendable(retention: Retention, good: &[Stored]) -> Vec<String> {
        retention.expendable(days(100), good)
    }

    #[test]
    fn each_limit_is_kept() {
        let all = [stored(10, 5), stored(90, 5), stored(50, 5), stored(99, 5)];
        let nothing = Retention::default();
        assert!(expendable(nothing, &all).is_empty());
        assert_eq!(expendable(Retention { count: Some(3), ..nothing }, &all), ["10"]);
        assert_eq!(expendable(Retention { age: Some(DAY * 20), ..nothing }, &all), ["10", "50"]);
        assert_eq!(expendable(Retention { bytes: Some(14), ..nothing }, &all), ["10", "50"]);
        assert_eq!(expendable(Retention { count: Some(3), age: Some(DAY * 5), bytes: None }, &all), ["10", "50", "90"]);
    }

    #[test]
    fn the_newest_and_what_is_needed_is_kept_whatever_the_limits() {
        let none = Retention { count: Some(1), age: Some(Duration::ZERO), bytes: Some(0) };
        assert!(expendable(none, &[stored(1, 9)]).is_empty());
        let needed = Stored { needed: true, ..stored(2, 9) };
        assert_eq!(expendable(none, &[stored(1, 9), needed, stored(3, 9)]), ["1"]);
    }

    proptest! {
        #[test]
        fn whatever_there_is_the_newest_and_the_needed_stay(
            good in prop::collection::vec((0_u32..200, 0_u64..100, any::<bool>()), 0..12),
            count in prop::option::of(1_u32..5),
            age in prop::option::of(0_u32..100),
            bytes in prop::option::of(0_u64..300),
        ) {
            let good: Vec<Stored> = good.iter().enumerate()
                .map(|(index, (day, bytes, needed))| Stored { id: format!("{day}-{index}"), taken: days(*day), bytes: *bytes, needed: *needed })
                .collect();
            let retention = Retention { count, age: age.map(|days| DAY * days), bytes };
            let gone = retention.expendable(days(100), &good);
            let stays: Vec<&Stored> = good.iter().filter(|it| !gone.contains(&it.id)).collect();
            prop_assert_eq!(stays.len() + gone.len(), good.len());
            prop_assert!(good.iter().filter(|it| it.needed).all(|it| stays.contains(&it)));
            let newest = good.iter().max_by(|one, other| (one.taken, &one.id).cmp(&(other.taken, &other.id)));
            prop_assert!(newest.is_none_or(|it| stays.contains(&it)));
            // What stays without a reason stays within the limits.
            let free: Vec<&&Stored> = stays.iter().filter(|it| !it.needed && Some(**it) != newest).collect();
            if let Some(most) = count {
                prop_assert!(free.is_empty() || stays.len() <= most as usize + stays.iter().filter(|it| it.needed).count());
            }
            // And again: nothing more goes.
            let left: Vec<Stored> = stays.into_iter().cloned().collect();
            prop_assert!(retention.expendable(days(100), &left).is_empty());
        }
    }
}
