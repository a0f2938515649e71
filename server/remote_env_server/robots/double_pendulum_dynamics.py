"""The physics of a cart with a double inverted pendulum: the true, nonlinear equations.

World frame: right-handed, origin in the middle of the rail at the height of the cart's pivot;
x along the rail to the right, y away from the viewer, z up. The motion is in the plane y = 0::

          z                      q = [x, theta1, theta2]
          |    o  tip            theta1, theta2: of each link from the upright, in radians, in
          |   /                  the world frame (not relative to the other link), positive when
          |  /  theta2           the link leans towards +x: right-handed about +y. Both are 0
          | o   joint            upright and pi hanging.
          | |   theta1
       ---[o]---------> x        force: horizontal, on the cart, positive towards +x, newtons.

The equations are Lagrange's, in plain float arithmetic: for six numbers that is some ten
times faster than numpy, and the same to the last bit on every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, sin
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["DoublePendulumDynamics", "DoublePendulumParameters", "State"]

# [x, theta1, theta2, x_dot, theta1_dot, theta2_dot] in m, rad, m/s, rad/s.
State: TypeAlias = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class DoublePendulumParameters:
    """What the plant is made of.

    Each link is a solid aluminium rod, 15 mm thick and 0.4 m long: 2700 kg/m^3 gives 0.191 kg.
    A uniform rod has its centre of mass in the middle and the inertia m l^2 / 12 about it.
    Friction is assumed: viscous, and so small that hanging links need 20 s to bring a slow
    swing down to 1/e of its amplitude.

    Attributes:
        cart_mass: kg; assumed, a small belt-driven carriage.
        mass1: Of the lower link, kg.
        mass2: Of the upper link, kg.
        length1: From the cart's pivot to the joint, m.
        length2: From the joint to the tip, m.
        centre1: From the cart's pivot to the lower link's centre of mass, m.
        centre2: From the joint to the upper link's centre of mass, m.
        inertia1: Of the lower link about its centre of mass, kg m^2.
        inertia2: Of the upper link about its centre of mass, kg m^2.
        cart_friction: Of the cart on the rail, N s/m.
        friction1: At the cart's pivot, N m s/rad.
        friction2: At the joint, on the difference of the links' rates, N m s/rad.
        gravity: m/s^2; the standard value of the 3rd CGPM (1901), rounded.
    """

    cart_mass: float = 1.0
    mass1: float = 0.191
    mass2: float = 0.191
    length1: float = 0.4
    length2: float = 0.4
    centre1: float = 0.2
    centre2: float = 0.2
    inertia1: float = 0.191 * 0.4**2 / 12
    inertia2: float = 0.191 * 0.4**2 / 12
    cart_friction: float = 0.5
    friction1: float = 0.001
    friction2: float = 0.001
    gravity: float = 9.80665


class DoublePendulumDynamics:
    """Accelerations, energy and a fixed-step integrator of one plant. Immutable.

    Source:
        Lagrange's equations of T - V with T, V from the links' centres of mass; see any text
        on mechanics. The tests compare them with Newton's, body by body.
    """

    def __init__(self, parameters: DoublePendulumParameters | None = None) -> None:
        self.parameters = p = parameters or DoublePendulumParameters()
        total = p.cart_mass + p.mass1 + p.mass2
        moment1 = p.mass1 * p.centre1 + p.mass2 * p.length1
        moment2 = p.mass2 * p.centre2
        coupling = p.mass2 * p.length1 * p.centre2
        inertia1 = p.inertia1 + p.mass1 * p.centre1**2 + p.mass2 * p.length1**2
        inertia2 = p.inertia2 + p.mass2 * p.centre2**2
        # The constant factors of the mass matrix, in kg, kg m and kg m^2, and of the forces.
        # One tuple, because unpacking it is faster than looking up ten attributes.
        self._mass = (total, inertia1, inertia2, moment1, moment2, coupling)
        self._forces = (p.cart_friction, p.friction1, p.friction2, p.gravity)

    def accelerations(
        self,
        theta1: float,
        theta2: float,
        x_dot: float,
        theta1_dot: float,
        theta2_dot: float,
        force: float,
    ) -> tuple[float, float, float]:
        """Return the second derivatives of x, theta1, theta2, in m/s^2 and rad/s^2.

        They do not depend on x. Solves ``M a = r``, M being the symmetric 3x3 mass matrix,
        by its cofactors.
        """
        m11, m22, m33, moment1, moment2, coupling = self._mass
        cart_friction, friction1, friction2, gravity = self._forces
        between = theta1 - theta2
        m12 = moment1 * cos(theta1)
        m13 = moment2 * cos(theta2)
        m23 = coupling * cos(between)

        swing1 = theta1_dot * theta1_dot
        swing2 = theta2_dot * theta2_dot
        lean1 = moment1 * sin(theta1)
        lean2 = moment2 * sin(theta2)
        centrifugal = coupling * sin(between)
        joint = friction2 * (theta2_dot - theta1_dot)
        r1 = force - cart_friction * x_dot + lean1 * swing1 + lean2 * swing2
        r2 = gravity * lean1 - centrifugal * swing2 - friction1 * theta1_dot + joint
        r3 = gravity * lean2 + centrifugal * swing1 - joint

        c11 = m22 * m33 - m23 * m23
        c12 = m13 * m23 - m12 * m33
        c13 = m12 * m23 - m13 * m22
        c22 = m11 * m33 - m13 * m13
        c23 = m12 * m13 - m11 * m23
        c33 = m11 * m22 - m12 * m12
        # Never 0: a mass matrix is positive definite.
        scale = 1.0 / (m11 * c11 + m12 * c12 + m13 * c13)
        return (
            (c11 * r1 + c12 * r2 + c13 * r3) * scale,
            (c12 * r1 + c22 * r2 + c23 * r3) * scale,
            (c13 * r1 + c23 * r2 + c33 * r3) * scale,
        )

    def advance(self, state: State, force: float, duration: float) -> State:
        """Integrate by one step of the classical Runge-Kutta method of order 4.

        The two halves of the state are written out (Nystrom's form), because the derivative
        of a position is the velocity itself.

        Args:
            state: ``[x, theta1, theta2, x_dot, theta1_dot, theta2_dot]``, SI units.
            force: On the cart, N; constant during the step.
            duration: Of the step, s. For 10 s of a frictionless plant that tumbles at up to
                35 rad/s, energy drifts by 8e-6 of the potential with steps of 2 ms, and by
                3e-7 with 1 ms.

        Returns:
            The state ``duration`` later; angles are not wrapped.

        Source:
            Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, 2nd ed., II.14.
        """
        x, q1, q2, v, w1, w2 = state
        h = duration
        half = 0.5 * h
        accelerations = self.accelerations
        ax1, a1, b1 = accelerations(q1, q2, v, w1, w2, force)
        ax2, a2, b2 = accelerations(
            q1 + half * w1,
            q2 + half * w2,
            v + half * ax1,
            w1 + half * a1,
            w2 + half * b1,
            force,
        )
        ax3, a3, b3 = accelerations(
            q1 + half * (w1 + half * a1),
            q2 + half * (w2 + half * b1),
            v + half * ax2,
            w1 + half * a2,
            w2 + half * b2,
            force,
        )
        ax4, a4, b4 = accelerations(
            q1 + h * (w1 + half * a2),
            q2 + h * (w2 + half * b2),
            v + h * ax3,
            w1 + h * a3,
            w2 + h * b3,
            force,
        )
        sixth = h / 6.0
        return (
            x + h * (v + sixth * (ax1 + ax2 + ax3)),
            q1 + h * (w1 + sixth * (a1 + a2 + a3)),
            q2 + h * (w2 + sixth * (b1 + b2 + b3)),
            v + sixth * (ax1 + 2.0 * (ax2 + ax3) + ax4),
            w1 + sixth * (a1 + 2.0 * (a2 + a3) + a4),
            w2 + sixth * (b1 + 2.0 * (b2 + b3) + b4),
        )

    def energy(self, state: State) -> float:
        """Return kinetic plus potential energy, in J; potential 0 is at the pivot's height."""
        total, inertia1, inertia2, moment1, moment2, coupling = self._mass
        _, q1, q2, v, w1, w2 = state
        m12, m13, m23 = moment1 * cos(q1), moment2 * cos(q2), coupling * cos(q1 - q2)
        kinetic = (
            0.5 * (total * v * v + inertia1 * w1 * w1 + inertia2 * w2 * w2)
            + m12 * v * w1
            + m13 * v * w2
            + m23 * w1 * w2
        )
        return kinetic + self.parameters.gravity * (m12 + m13)

    def points(self, x: float, theta1: float, theta2: float) -> NDArray[np.float64]:
        """Return where the pivot, the joint and the tip are.

        Returns:
            ``(3, 3)`` float64, one point per row, metres, world frame; y is 0.
        """
        p = self.parameters
        joint_x = x + p.length1 * sin(theta1)
        joint_z = p.length1 * cos(theta1)
        tip_x = joint_x + p.length2 * sin(theta2)
        tip_z = joint_z + p.length2 * cos(theta2)
        return np.array([[x, 0.0, 0.0], [joint_x, 0.0, joint_z], [tip_x, 0.0, tip_z]])
