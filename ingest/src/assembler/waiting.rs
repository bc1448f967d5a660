//! Which final uploads wait, and when each is looked at again. No clock, no I/O.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use shared::id::UploadId;

/// Final uploads that are remembered. Who is beyond is found again by its next HEAD, or at the next
/// start.
const MOST: usize = 10_000;
/// First and longest wait before a look at one whose parts may be completed by other processes:
/// parts that are completed here wake it at once.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(64));

/// The final uploads that wait for their parts.
#[derive(Debug, Default)]
pub(super) struct Waiting(HashMap<UploadId, One>);

#[derive(Debug)]
struct One {
    parts: Vec<UploadId>,
    due: Instant,
    pause: Duration,
    /// Something happened since the last look began.
    woken: bool,
}

impl Waiting {
    /// Takes note of one, due at once. `false` if it was known before, or there are too many.
    pub(super) fn add(&mut self, id: UploadId, parts: &[UploadId], now: Instant) -> bool {
        if self.0.contains_key(&id) || MOST <= self.0.len() {
            return false;
        }
        let one = One {
            parts: parts.to_vec(),
            due: now,
            pause: PAUSE.0,
            woken: false,
        };
        self.0.insert(id, one);
        true
    }

    /// Makes those due at once that name one of `parts`, except `id` itself; whether there are any.
    pub(super) fn wake(
        &mut self,
        parts: &[UploadId],
        except: Option<UploadId>,
        now: Instant,
    ) -> bool {
        let mut any = false;
        for (id, one) in &mut self.0 {
            if Some(*id) != except && one.parts.iter().any(|part| parts.contains(part)) {
                (one.due, one.pause, one.woken) = (now, PAUSE.0, true);
                any = true;
            }
        }
        any
    }

    /// Those that are due. A look at each begins now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<UploadId> {
        let due = self.0.iter_mut().filter(|(_, one)| one.due <= now);
        due.map(|(id, one)| {
            one.woken = false;
            *id
        })
        .collect()
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|one| one.due).min()
    }

    /// A look found that it still waits: the next one comes later than this one did.
    pub(super) fn put_off(&mut self, id: UploadId, now: Instant) {
        if let Some(one) = self.0.get_mut(&id).filter(|one| !one.woken) {
            one.due = now + one.pause;
            one.pause = (one.pause * 2).min(PAUSE.1);
        }
    }

    /// It waits no more; what it was made of.
    pub(super) fn remove(&mut self, id: UploadId) -> Vec<UploadId> {
        self.0.remove(&id).map_or_else(Vec::new, |one| one.parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_upload_is_looked_at_less_and_less_often_until_one_of_its_parts_is_completed() {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        let (whole, part, other) = (
            UploadId::generate(),
            UploadId::generate(),
            UploadId::generate(),
        );
        assert!(waiting.add(whole, &[part], start));
        assert!(!waiting.add(whole, &[part], start), "known before");
        let (mut now, mut looks) = (start, 0);
        while now < start + Duration::from_secs(3600) {
            assert_eq!(waiting.due(now), [whole]);
            looks += 1;
            waiting.put_off(whole, now);
            now = waiting.next().unwrap();
        }
        assert!(looks < 3600 / 64 + 8, "{looks} looks in an hour");
        assert!(!waiting.wake(&[other], None, start));
        assert!(waiting.due(start).is_empty());
        assert!(waiting.wake(&[part], None, start));
        assert_eq!(waiting.due(start), [whole]);
        waiting.put_off(whole, start);
        assert_eq!(waiting.next(), Some(start + PAUSE.0));
    }

    #[test]
    fn what_happens_during_a_look_is_not_forgotten_at_its_end() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        let (whole, part) = (UploadId::generate(), UploadId::generate());
        waiting.add(whole, &[part], now);
        assert_eq!(waiting.due(now), [whole]);
        waiting.wake(&[part], None, now);
        waiting.put_off(whole, now);
        assert_eq!(waiting.due(now), [whole]);
        assert_eq!(waiting.remove(whole), [part]);
        assert_eq!((waiting.due(now), waiting.next()), (vec![], None));
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        let added = (0..=MOST).filter(|_| waiting.add(UploadId::generate(), &[], now));
        assert_eq!(added.count(), MOST);
    }
}
