//! Planted bugs: proof that the simulator's checkers find what they are there for. Test-only: without the feature
//! `mutations`, which nothing but the simulator's own check turns on, `mutation!(Name)` is the constant `false`.

/// Whether this planted bug is on in this thread.
#[cfg(feature = "mutations")]
macro_rules! mutation {
    ($name:ident) => {
        $crate::mutation::is_planted($crate::mutation::Mutation::$name)
    };
}

/// Whether this planted bug is on: never.
#[cfg(not(feature = "mutations"))]
macro_rules! mutation {
    ($name:ident) => {
        false
    };
}

#[cfg(feature = "mutations")]
pub use self::planted::*;

#[cfg(feature = "mutations")]
mod planted {
    use std::cell::Cell;

    macro_rules! mutations {
        ($($name:ident: $what:literal,)*) => {
            /// The bugs that can be planted, each in the place that its name says.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum Mutation {
                $(#[doc = $what] $name,)*
            }

            /// All of them, with what is wrong.
            pub const ALL: &[(Mutation, &str, &str)] = &[$((Mutation::$name, stringify!($name), $what),)*];
        };
    }

    mutations! {
        WrongTieBreak: "of two puts with equal clocks the one that arrives last wins",
        ArrivalOrder: "a put wins whatever its stamp: the one that arrives last",
        NoTombstone: "a removal leaves no trace",
        TotalsByRegion: "running totals are kept by region instead of incarnation",
        DeadTotalsCount: "a set does not kill the increments of runs that were started before it",
        StaleTotalWins: "an older running total overwrites a later one",
        LoserLeavesNoFloor: "the type that loses a key leaves no floor",
        FloorKeepsTtl: "a deletion does not clear the time-to-live",
        SetKeepsTtl: "a set does not clear the time-to-live",
        FloorIsForgotten: "a deletion takes the key from view and keeps no floor",
        ExpiryByArrival: "the time-to-live that arrives last wins, whatever its stamp",
        ExpiryOvertakesRenewal: "an expiry stands although the key was renewed by somebody who did not see it expire",
        SumWithoutBase: "a counter's sum leaves out the number that was set",
        FlushForgetsSlot: "a flush is not remembered for keys that are not there",
        PlainSetIgnoresFlush: "the fast path of SET does not look at the slot's floor",
        ClockGoesBack: "the clock follows the wall clock when that goes back",
        ClockNotMovedByMerge: "a merge does not move the clock",
        MergeWithoutDedupe: "effects that are in the cover are merged again",
        NoCompareAndSet: "a merge does not look at the stored position: two readers at once",
        PositionBeforeApply: "the position is stored although the merge was held back",
        KeptIncarnation: "an unclean restart goes on with the incarnation and the numbers it had",
        OldOutboxDropped: "a promotion throws away the outbox of the incarnation before",
        OldOriginForgotten: "a promotion forgets that it has what the incarnation before had issued",
        HardSkewMerged: "a clock beyond the hard limit is merged",
        ReplicaKeepsNoOutbox: "a replica does not keep the outbox",
        ReplicaKeepsNoPosition: "a replica does not keep the positions",
        ReplicaNeverTrims: "a replica never gives up what was confirmed",
        SeenClockIgnored: "the clock that a proxy has seen does not move the engine's",
        CoverNotMerged: "a merge stores the position and not the cover",
        RenewalWithoutValue: "a renewal does not carry the key's values",
        TrimByWatermark: "everything below a confirmed effect leaves the outbox too",
        CoverIsAWatermark: "a cover takes everything below its last number for applied",
        CoverNotSaved: "the cover is not in the saved state",
        OutboxNotSaved: "the outbox is not in the saved state",
        FloorsNotSaved: "the slots' floors are not in the saved state",
        ClockNotSaved: "the clock is not in the saved state",
        TotalsNotSaved: "running totals are not in the saved state",
        RefusedIsConfirmed: "a record that the broker refused counts as confirmed",
        LostFlightForgotten: "what was unconfirmed when the connection broke is not published again",
        ReleasesTooMuch: "a confirmation releases everything below it",
        OnePartConfirms: "the first confirmed part of a large effect releases it",
        AckBeforeConfirm: "a write at Queued is answered before the broker confirmed it",
        UnchangedAckedEarly: "a write that changed nothing is answered before all before it was confirmed",
        OutboxFirstConfirmed: "the first effect that waits in the outbox counts as confirmed",
        OldEpochHeard: "heartbeats of a superseded master count",
        LossIsReached: "while the broker is away writes count as confirmed",
        RemoteCountsOneLess: "a write at Remote(n) is answered when n - 1 regions have it",
        PositionPastParts: "the position is stored past an effect of which parts are missing",
        RecordNotVerified: "a reader does not look whether the log is the one that it knew",
        OwnTailSkipped: "the reader of the own stream skips every incarnation of the region",
        OwnStreamNotRead: "a new master serves before it has read its own stream",
        AnyNonceWillDo: "somebody else's nonce ends the reading of the own stream",
        OldEffectsIgnored: "a new master serves before its old outbox was published",
        VolatileIsDurable: "the master's cover is told as durable",
        UnheardIsDurable: "a member that was never heard does not count for what is durable",
        MissingIssuedNumber: "heartbeats do not tell what was issued",
        HolesNotCounted: "effects that will not come are not counted as missing",
        TokenWithoutWrites: "a token leaves out what the session wrote last",
        TokenIsAWatermark: "a token is covered as soon as the last of its effects is here",
        ForgottenLifeNotEnded: "who writes to a key whose expired time-to-live was forgotten does not say that it is over",
        TombstoneByAge: "a tombstone is forgotten when it is three seconds old, stable or not",
        VolatileIsStable: "what the master alone has merged through is told as durable",
        SilentRegionIgnored: "a region that was never heard does not count for what is stable",
        SettlesAtOnce: "a heartbeat counts for what is stable before all that it says was issued is here",
        EndedIgnored: "an incarnation that has ended does not count for what is stable",
        KillForgotten: "the end of an expired life is forgotten though it is not stable",
        ExpiredForgottenEarly: "an expired key is forgotten before everybody's clock has passed its end",
        FoldedByEach: "counters are folded without telling the other regions",
        FoldedUnstable: "counters are folded before what might end one of the totals is known",
        SealedAtOnce: "an incarnation is sealed as soon as nobody is seen to hold anything of it",
        StaleConfirmationTold: "a confirmation is told although the master's word is old",
        TransferIgnoresGcCover: "state is taken over from a region that lacks what tombstones were forgotten of",
        TransferWithoutTombstones: "state is sent without what was deleted",
        TransferFromAnyMaster: "pieces of state of different incarnations are put together",
        VolatileStateTaken: "pieces of state are taken over that their source may still lose",
        TransferSettlesEarly: "the cover of a source is taken over before what it got meanwhile is here",
        DigestForgetsRemoval: "what was removed from a key stays in its slot's digest",
        DigestForgetsKills: "what dies, or comes back, with a time-to-live does not change the digest",
        DigestCountsTombstones: "a digest counts what was removed, until that is forgotten",
        DigestCountsExpired: "a digest counts keys that have expired, until they are forgotten",
        DigestKeptByFlush: "a flush leaves what it took in the slots' digests",
        DigestNotLoaded: "what is loaded from a file is not in the digests",
        EmptyMasterPromoted: "an empty member is promoted although another may have more",
        OldestPromoted: "of several members the one that has least is promoted",
        HandoverNotAwaited: "a planned handover promotes a replica that has not all its master has",
        HandoverUnpaused: "a planned handover does not pause the master",
        MarkSkipped: "a copy takes an identity of its own before the members' markers have arrived",
        PositionsNotCarried: "a copy that takes an identity of its own forgets where its source had read to",
        OutboxCarried: "a copy that takes an identity of its own keeps its source's outbox",
        BroughtForgotten: "a copy does not remember what it brought of its source",
        SourceNotAwaited: "a shard that joins serves before what it brought is in its source's stream",
        ReplayNotAwaited: "a shard that joins serves before it has read and compared what the members have",
        MembersNotAwaited: "a region joins before every member counts it",
        RemovalUnsettled: "a region that leaves is stopped before the others have all that it has",
    }

    thread_local! {
        static PLANTED: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Turns one on in this thread, or all off.
    pub fn plant(mutation: Option<Mutation>) {
        PLANTED.set(mutation);
    }

    /// Whether this one is on.
    pub fn is_planted(mutation: Mutation) -> bool {
        PLANTED.get() == Some(mutation)
    }
}
