"""The physics of the double pendulum, against other derivations of the same motion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from remote_env_server.robots.double_pendulum_dynamics import (
    DoublePendulumDynamics,
    DoublePendulumParameters,
)

# All different, so that no mistake hides behind two equal links.
UNEQUAL = DoublePendulumParameters(
    cart_mass=1.3,
    mass1=0.31,
    mass2=0.17,
    length1=0.45,
    length2=0.33,
    centre1=0.21,
    centre2=0.14,
    inertia1=0.006,
    inertia2=0.002,
    cart_friction=0.7,
    friction1=0.03,
    friction2=0.02,
)
FRICTIONLESS = {"cart_friction": 0.0, "friction1": 0.0, "friction2": 0.0}


def random_states(count, seed=0):
    low = [-1.0, -np.pi, -np.pi, -5.0, -15.0, -15.0]
    states = np.random.default_rng(seed).uniform(low, np.negative(low), (count, 6))
    return [tuple(state) for state in states.tolist()]


def trajectory(dynamics, state, *, seconds, step, force=0.0):
    states = [state]
    for _ in range(round(seconds / step)):
        states.append(dynamics.advance(states[-1], force, step))
    return states


def newton_accelerations(p, state, force):
    """Solve Newton's and Euler's equations of the three bodies with their joints' forces.

    Coordinates are [cart x, x1, z1, theta1, x2, z2, theta2], of the bodies' centres of mass; the
    joints are four constraints, differentiated twice: ``jacobian a = -bias``.
    """
    _, q1, q2, v, w1, w2 = state
    rest = p.length1 - p.centre1
    s1, c1, s2, c2 = np.sin(q1), np.cos(q1), np.sin(q2), np.cos(q2)
    jacobian = np.array(
        [
            [-1, 1, 0, -p.centre1 * c1, 0, 0, 0],
            [0, 0, 1, p.centre1 * s1, 0, 0, 0],
            [0, -1, 0, -rest * c1, 1, 0, -p.centre2 * c2],
            [0, 0, -1, rest * s1, 0, 1, p.centre2 * s2],
        ]
    )
    bias = np.array(
        [
            p.centre1 * s1 * w1**2,
            p.centre1 * c1 * w1**2,
            rest * s1 * w1**2 + p.centre2 * s2 * w2**2,
            rest * c1 * w1**2 + p.centre2 * c2 * w2**2,
        ]
    )
    masses = np.diag([p.cart_mass, p.mass1, p.mass1, p.inertia1, p.mass2, p.mass2, p.inertia2])
    joint = p.friction2 * (w2 - w1)
    loads = np.array(
        [
            force - p.cart_friction * v,
            0,
            -p.mass1 * p.gravity,
            joint - p.friction1 * w1,
            0,
            -p.mass2 * p.gravity,
            -joint,
        ]
    )
    system = np.block([[masses, jacobian.T], [jacobian, np.zeros((4, 4))]])
    solution = np.linalg.solve(system, np.concatenate([loads, -bias]))
    return solution[[0, 3, 6]]


@pytest.mark.parametrize("parameters", [DoublePendulumParameters(), UNEQUAL])
def test_accelerations_are_those_of_newton_and_euler_body_by_body(parameters):
    dynamics = DoublePendulumDynamics(parameters)
    states = random_states(500)
    forces = np.random.default_rng(1).uniform(-20, 20, len(states)).tolist()

    ours = [dynamics.accelerations(*s[1:], f) for s, f in zip(states, forces, strict=True)]

    newtons = [newton_accelerations(parameters, s, f) for s, f in zip(states, forces, strict=True)]
    np.testing.assert_allclose(ours, newtons, rtol=1e-9, atol=1e-9)


# Measured: 8.2e-6, 3.1e-7 and 7.3e-12.
@pytest.mark.parametrize(
    ("state", "step", "bound"),
    [
        pytest.param((0.0, 0.3, -0.2, 0.0, 0.0, 0.0), 0.002, 2e-5, id="tumbling, 2 ms"),
        pytest.param((0.0, 0.3, -0.2, 0.0, 0.0, 0.0), 0.001, 1e-6, id="tumbling, 1 ms"),
        pytest.param((0.0, 2.8, 2.6, 0.0, 0.0, 0.0), 0.002, 1e-10, id="swinging, 2 ms"),
    ],
)
def test_energy_is_kept_without_friction_and_force(state, step, bound):
    dynamics = DoublePendulumDynamics(replace(DoublePendulumParameters(), **FRICTIONLESS))
    upright = dynamics.energy((0.0,) * 6)

    energies = [dynamics.energy(s) for s in trajectory(dynamics, state, seconds=10, step=step)]

    drift = np.abs(np.subtract(energies, energies[0])).max() / upright
    assert drift < bound


@pytest.mark.parametrize("friction", sorted(FRICTIONLESS))
def test_every_friction_takes_energy_away(friction):
    parameters = replace(UNEQUAL, **{**FRICTIONLESS, friction: 0.05})
    dynamics = DoublePendulumDynamics(parameters)
    states = trajectory(dynamics, (0.0, 1.0, -0.5, 0.3, 0.0, 0.0), seconds=5, step=0.002)

    energies = np.array([dynamics.energy(state) for state in states])

    assert np.diff(energies).max() < 1e-6
    assert energies[-1] < energies[0] - 0.01


def test_the_work_of_the_force_is_what_the_energy_gains():
    dynamics = DoublePendulumDynamics(replace(UNEQUAL, **FRICTIONLESS))
    states = trajectory(dynamics, (0.0, 0.4, -0.3, 0.2, 1.0, -2.0), seconds=1, step=0.001, force=7)

    gained = dynamics.energy(states[-1]) - dynamics.energy(states[0])

    assert gained == pytest.approx(7 * (states[-1][0] - states[0][0]), rel=1e-7)


@pytest.mark.parametrize("angle", [0.0, np.pi], ids=["upright", "hanging"])
def test_both_equilibria_are_at_rest(angle):
    accelerations = DoublePendulumDynamics().accelerations(angle, angle, 0.0, 0.0, 0.0, 0.0)

    np.testing.assert_allclose(accelerations, 0, atol=1e-13)


# Two equal uniform rods on a fixed pivot have the mass matrix [[4/3, 1/2], [1/2, 1/3]] m l^2 and
# the stiffness [[3/2, 0], [0, 1/2]] m g l at small angles, so the squares of their rates are
# (3 +- 6 / sqrt(7)) g / l: in these modes they oscillate when they hang, and fall from upright.
@pytest.mark.parametrize("sign", [-1, 1], ids=["slow mode", "fast mode"])
@pytest.mark.parametrize(
    ("angle", "course"), [(np.pi, np.cos), (0.0, np.cosh)], ids=["hanging", "upright"]
)
def test_small_motions_follow_the_two_modes_of_the_linearised_links(angle, course, sign):
    square = 3 + sign * 6 / np.sqrt(7)
    shape = np.array([1.0, (3 - 8 * square / 3) / square])
    fixed = replace(DoublePendulumParameters(), cart_mass=1e9, **FRICTIONLESS)
    dynamics = DoublePendulumDynamics(fixed)
    seconds = 0.3
    start = 1e-5 * shape

    end = trajectory(dynamics, (0.0, *(angle + start), 0.0, 0.0, 0.0), seconds=seconds, step=0.001)

    rate = np.sqrt(square * fixed.gravity / fixed.length1)
    expected = start * course(rate * seconds)
    np.testing.assert_allclose(np.array(end[-1][1:3]) - angle, expected, rtol=0, atol=1e-9)


def test_positive_angles_lean_towards_positive_x():
    points = DoublePendulumDynamics().points(0.1, np.pi / 2, 0.0)

    np.testing.assert_allclose(points, [[0.1, 0, 0], [0.5, 0, 0], [0.5, 0, 0.4]], atol=1e-12)
