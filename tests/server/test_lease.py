"""The lease: one controller, named to everybody else."""

import pytest

from remote_env.errors import LeaseError
from remote_env_server.lease import Holder, Lease

ANN = Holder(1, "process a", "Ann")
ANN_AGAIN = Holder(2, "process a", "Ann")
BOB = Holder(3, "process b", "Bob")


def held_by(holder):
    lease = Lease()
    lease.acquire(holder, take=False, is_stale=False)
    return lease


def test_a_free_lease_goes_to_whoever_asks():
    lease = Lease()
    assert lease.acquire(ANN, take=False, is_stale=False) is None
    assert lease.holder == ANN
    assert (lease.epoch, lease.sequence) == (1, 1)


def test_asking_again_changes_no_holder_and_counts_as_a_command():
    lease = held_by(ANN)
    assert lease.acquire(ANN, take=False, is_stale=False) is None
    assert lease.holder == ANN
    assert (lease.epoch, lease.sequence) == (1, 2)
    lease.use(ANN)


def test_a_second_controller_is_refused_with_the_owners_name():
    lease = held_by(ANN)
    with pytest.raises(LeaseError, match="commanded by Ann.*take=True") as refused:
        lease.acquire(BOB, take=False, is_stale=False)
    assert refused.value.retryable
    assert refused.value.code == "robot.lease.taken"
    assert lease.holder == ANN
    assert (lease.epoch, lease.sequence) == (1, 1)


@pytest.mark.parametrize(
    ("holder", "take", "is_stale"),
    [(BOB, True, False), (BOB, False, True), (ANN_AGAIN, False, False)],
    ids=["take", "stale", "same process"],
)
def test_the_lease_changes_hands(holder, take, is_stale):
    lease = held_by(ANN)
    assert lease.acquire(holder, take=take, is_stale=is_stale) == ANN
    assert lease.holder == holder
    lease.use(holder)
    with pytest.raises(LeaseError, match=f"taken over by ({holder.owner}|another env)") as lost:
        lease.use(ANN)
    assert lost.value.code == "robot.lease.lost"


def test_each_holder_has_an_epoch_and_each_command_a_number():
    lease = held_by(ANN)
    for _ in range(3):
        lease.use(ANN)
    assert (lease.epoch, lease.sequence) == (1, 4)
    lease.acquire(BOB, take=True, is_stale=False)
    assert (lease.epoch, lease.sequence) == (2, 1)
    with pytest.raises(LeaseError):
        lease.use(ANN)
    assert (lease.epoch, lease.sequence) == (2, 1)
    lease.release(BOB.peer)
    lease.acquire(BOB, take=False, is_stale=False)
    assert (lease.epoch, lease.sequence) == (3, 1)


def test_only_the_holder_can_return_it():
    lease = held_by(ANN)
    assert not lease.release(BOB.peer)
    assert lease.release(ANN.peer)
    assert lease.holder is None
    assert not lease.release(ANN.peer)


def test_who_returned_it_is_told_to_reset():
    lease = held_by(ANN)
    lease.release(ANN.peer)
    with pytest.raises(LeaseError, match=r"no lease; call env.reset\(\)") as none:
        lease.use(ANN)
    assert none.value.code == "robot.lease.none"


def test_who_never_had_it_is_told_to_reset():
    with pytest.raises(LeaseError, match=r"no lease; call env.reset\(\)"):
        Lease().use(ANN)


def test_who_lost_it_is_told_to_whom_even_after_that_one_returned_it():
    lease = held_by(ANN)
    lease.acquire(BOB, take=True, is_stale=False)
    lease.release(BOB.peer)
    with pytest.raises(LeaseError, match="taken over by Bob"):
        lease.use(ANN)
