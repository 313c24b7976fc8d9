use proptest::prelude::*;

use super::*;

/// A camera in three encodings of three temporal layers, in kbit/s.
const CAMERA: [(u8, u8, u64); 7] =
    [(0, 0, 60), (0, 1, 90), (0, 2, 150), (1, 1, 300), (1, 2, 500), (2, 1, 1000), (2, 2, 1700)];

fn ladder(rungs: &[(u8, u8, u64)]) -> Vec<Rung> {
    let rung = |(encoding, temporal, kbps): &(u8, u8, u64)| Rung {
        layers: Layers { encoding: *encoding, spatial: 0, temporal: *temporal },
        rate: Bitrate::kbps(*kbps),
    };
    rungs.iter().map(rung).collect()
}

fn wish(ladder: &[Rung], held: usize) -> Wish<'_> {
    Wish {
        priority: Priority::default(),
        ladder,
        held: held.checked_sub(1).map(|index| ladder[index].layers),
        paused: false,
        stays_down: false,
    }
}

/// Shares out what there is for floors and all.
fn allocate(budget: Bitrate, wishes: &[Wish<'_>], may_pause: MayPause) -> Vec<usize> {
    super::allocate(Budget { floors: budget, all: budget }, wishes, may_pause).into_vec()
}

fn taken(wishes: &[Wish<'_>], rungs: &[usize]) -> u64 {
    let rate =
        |(wish, rungs): (&Wish<'_>, &usize)| Some(wish.ladder.get(rungs.checked_sub(1)?)?.rate.as_bps());
    wishes.iter().zip(rungs).filter_map(rate).sum()
}

#[test]
fn equals_get_equal_shares() {
    let ladder = ladder(&CAMERA);
    let wishes = vec![wish(&ladder, 0); 5];
    assert_eq!(allocate(Bitrate::kbps(20_000), &wishes, MayPause::All), [7; 5]);
    assert_eq!(allocate(Bitrate::kbps(2_700), &wishes, MayPause::All), [5; 5]);
    assert_eq!(allocate(Bitrate::kbps(340), &wishes, MayPause::All), [1; 5]);
    let one_more = allocate(Bitrate::kbps(700), &wishes, MayPause::All);
    assert_eq!(one_more, [3, 3, 3, 2, 2], "as far as it goes");
}

#[test]
fn what_does_not_fit_pauses_if_it_may() {
    let ladder = ladder(&CAMERA);
    let wishes = vec![wish(&ladder, 1); 5];
    assert_eq!(allocate(Bitrate::kbps(200), &wishes, MayPause::All), [1, 1, 1, 0, 0]);
    assert_eq!(allocate(Bitrate::kbps(200), &wishes, MayPause::Paused), [1; 5]);
    assert_eq!(allocate(Bitrate::ZERO, &wishes, MayPause::All), [0; 5]);
    let mut one_pauses = vec![wish(&ladder, 1); 5];
    one_pauses[3].paused = true;
    assert_eq!(allocate(Bitrate::kbps(239), &one_pauses, MayPause::Paused), [1, 1, 1, 0, 1]);
    let mut some_sent = vec![wish(&ladder, 0); 5];
    some_sent[4] = wish(&ladder, 1);
    assert_eq!(allocate(Bitrate::kbps(130), &some_sent, MayPause::Unsent), [1, 0, 0, 0, 1]);
    assert_eq!(allocate(Bitrate::ZERO, &some_sent[..4], MayPause::Unsent), [1, 0, 0, 0]);
}

#[test]
fn the_first_priority_goes_up_once_all_have_their_floor() {
    let camera = ladder(&CAMERA);
    let screen = ladder(&[(0, 0, 1500)]);
    let mut wishes = vec![wish(&camera, 0); 4];
    wishes[3].priority.speaks = true;
    wishes.push(Wish { priority: Priority { is_screen: true, ..Priority::default() }, ..wish(&screen, 0) });
    assert_eq!(allocate(Bitrate::kbps(2_200), &wishes, MayPause::All), [3, 2, 2, 4, 1]);
    // The screen's one rung is its floor: it comes before the floors of others.
    assert_eq!(allocate(Bitrate::kbps(1_650), &wishes, MayPause::All), [1, 0, 0, 1, 1]);
    wishes[1].priority.pinned = 1;
    assert_eq!(allocate(Bitrate::kbps(2_200), &wishes, MayPause::All)[1], 4, "pinned before speaking");
}

#[test]
fn what_is_held_stays_until_it_does_not_fit() {
    let ladder = ladder(&CAMERA);
    assert_eq!(allocate(Bitrate::kbps(505), &[wish(&ladder, 4)], MayPause::All), [4], "500 leaves no margin");
    assert_eq!(allocate(Bitrate::kbps(505), &[wish(&ladder, 5)], MayPause::All), [5]);
    assert_eq!(allocate(Bitrate::kbps(499), &[wish(&ladder, 5)], MayPause::All), [4]);
    let resting = Wish { stays_down: true, ..wish(&ladder, 2) };
    assert_eq!(
        allocate(Bitrate::kbps(5_000), &[resting], MayPause::All),
        [3],
        "up to where no keyframe is needed"
    );
    assert_eq!(allocate(Bitrate::kbps(5_000), &[Wish { held: None, ..resting }], MayPause::All), [0]);
}

#[test]
fn the_last_picture_stays_while_the_estimate_goes_up_and_down() {
    let ladder = ladder(&[(0, 0, 400)]);
    assert_eq!(allocate(Bitrate::kbps(300), &[wish(&ladder, 1)], MayPause::All), [1]);
    assert_eq!(allocate(Bitrate::kbps(299), &[wish(&ladder, 1)], MayPause::All), [0]);
    assert_eq!(allocate(Bitrate::kbps(1), &[wish(&ladder, 1); 2], MayPause::AllButOne), [1, 0]);
    assert_eq!(
        allocate(Bitrate::kbps(410), &[wish(&ladder, 0)], MayPause::All),
        [0],
        "comes back with some room"
    );
    assert_eq!(allocate(Bitrate::kbps(700), &[wish(&ladder, 1); 2], MayPause::All), [1, 0], "one of them");
}

#[test]
fn what_drains_a_queue_is_not_taken_from_the_floors() {
    let ladder = ladder(&CAMERA);
    let wishes = vec![wish(&ladder, 5); 3];
    let draining = |all| {
        super::allocate(
            Budget { floors: Bitrate::kbps(1_000), all: Bitrate::kbps(all) },
            &wishes,
            MayPause::All,
        )
        .into_vec()
    };
    assert_eq!(draining(1_000), [4, 4, 4]);
    assert_eq!(draining(500), [3, 3, 3]);
    assert_eq!(draining(100), [1, 1, 1]);
}

#[test]
fn equals_do_not_change_places() {
    let ladder = ladder(&CAMERA);
    let wishes = [wish(&ladder, 2), wish(&ladder, 3), wish(&ladder, 2)];
    assert_eq!(allocate(Bitrate::kbps(340), &wishes, MayPause::All), [2, 3, 2]);
}

proptest! {
    #[test]
    fn the_budget_is_kept_and_used(
        kbps in 0_u64..20_000,
        held in prop::collection::vec((0_usize..8, any::<bool>(), 0_u8..3), 1..30),
    ) {
        let ladder = ladder(&CAMERA);
        let wishes: Vec<Wish<'_>> = held
            .iter()
            .map(|(rungs, speaks, size)| Wish {
                priority: Priority { speaks: *speaks, size: *size, ..Priority::default() },
                ..wish(&ladder, (*rungs).min(7))
            })
            .collect();
        let budget = Bitrate::kbps(kbps);
        let rungs = allocate(budget, &wishes, MayPause::All);
        let taken = taken(&wishes, &rungs);
        prop_assert!(taken <= budget.as_bps() || rungs.iter().sum::<usize>() == 1);
        let complete = rungs.iter().all(|rungs| *rungs == ladder.len());
        // The largest step with its margin did not fit any more.
        let used = complete || budget.as_bps().saturating_sub(taken) < 700_000 + 1_700_000 * MARGIN_PERCENT / 100;
        prop_assert!(used, "{taken} of {budget}");
        // Held all the same, it stays as it is.
        let again: Vec<Wish<'_>> = wishes
            .iter()
            .zip(&rungs)
            .map(|(before, rungs)| Wish { priority: before.priority, ..wish(&ladder, *rungs) })
            .collect();
        let kept = allocate(budget, &again, MayPause::All);
        prop_assert!(kept.iter().zip(&rungs).all(|(kept, rungs)| kept >= rungs), "{kept:?} {rungs:?}");
    }
}

#[test]
fn one_track_at_a_time_goes_up_to_a_larger_picture() {
    let ladder = ladder(&CAMERA);
    let mut wishes = vec![wish(&ladder, 3), wish(&ladder, 2), wish(&ladder, 0)];
    let held_back = |wishes: &[Wish<'_>], mut given: Vec<usize>| (hold_back(wishes, &mut given), given);
    assert_eq!(held_back(&wishes, vec![5, 5, 5]), (true, vec![5, 3, 5]), "what begins does so at once");
    wishes[1].priority.speaks = true;
    assert_eq!(held_back(&wishes, vec![5, 5, 0]), (true, vec![3, 5, 0]));
    assert_eq!(held_back(&wishes, vec![3, 5, 0]), (false, vec![3, 5, 0]));
    assert_eq!(held_back(&wishes, vec![1, 3, 1]), (false, vec![1, 3, 1]), "frame rates and falls are free");
}
