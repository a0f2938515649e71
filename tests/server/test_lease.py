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
    assert Lease().acquire(ANN, take=False, is_stale=False) is None


def test_asking_again_changes_nothing():
    lease = held_by(ANN)
    assert lease.acquire(ANN, take=False, is_stale=False) is None
    lease.check(ANN)


def test_a_second_controller_is_refused_with_the_owners_name():
    with pytest.raises(LeaseError, match="commanded by Ann.*take=True") as refused:
        held_by(ANN).acquire(BOB, take=False, is_stale=False)
    assert refused.value.retryable
    assert refused.value.code == "robot.lease.taken"


@pytest.mark.parametrize(
    ("holder", "take", "is_stale"),
    [(BOB, True, False), (BOB, False, True), (ANN_AGAIN, False, False)],
    ids=["take", "stale", "same process"],
)
def test_the_lease_changes_hands(holder, take, is_stale):
    lease = held_by(ANN)
    assert lease.acquire(holder, take=take, is_stale=is_stale) == ANN
    lease.check(holder)
    with pytest.raises(LeaseError, match=f"taken over by ({holder.owner}|another env)") as lost:
        lease.check(ANN)
    assert lost.value.code == "robot.lease.lost"


def test_only_the_holder_can_return_it():
    lease = held_by(ANN)
    assert not lease.release(BOB.connection)
    assert lease.release(ANN.connection)
    assert not lease.release(ANN.connection)


def test_who_returned_it_is_told_to_reset():
    lease = held_by(ANN)
    lease.release(ANN.connection)
    with pytest.raises(LeaseError, match=r"no lease; call env.reset\(\)"):
        lease.check(ANN)


def test_who_lost_it_is_told_to_whom_even_after_that_one_returned_it():
    lease = held_by(ANN)
    lease.acquire(BOB, take=True, is_stale=False)
    lease.release(BOB.connection)
    with pytest.raises(LeaseError, match="taken over by Bob"):
        lease.check(ANN)
