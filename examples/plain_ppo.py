"""PPO of Gymnasium and torch alone, on arms that are one vector environment.

python examples/plain_ppo.py [URL...]; without urls it serves four. To serve one yourself:
remote-env serve arm --port 8765 --cameras none
"""

import contextlib

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.wrappers import vector
from torch import as_tensor, nn

from remote_env_agents import ServedRobots


def learn(envs: gym.vector.VectorEnv, *, updates: int, steps: int, gamma: float = 0.95) -> None:
    inputs, outputs = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
    layers = nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()
    net, spread = nn.Sequential(*layers, nn.Linear(64, outputs + 1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([*net.parameters(), spread], lr=1e-3)
    seen, over, returns, rows = as_tensor(envs.reset(seed=1)[0]), np.False_, [], []
    while updates:
        policy = torch.distributions.Normal(net(seen)[:, :-1].detach(), spread.detach().exp())
        action = policy.sample()
        told, reward, terminated, truncated, info = envs.step(action.numpy())
        # What follows the end of an episode only resets, and a robot that fails moves nothing.
        valid, over = info["remote"]["valid"] & ~over, terminated | truncated
        kept = map(as_tensor, (reward, ~terminated, ~over, valid))
        rows.append((seen, action, policy.log_prob(action).sum(-1), *kept))
        seen = as_tensor(told)
        returns += list(info["episode"]["r"][info["_episode"]]) if "episode" in info else []
        if len(rows) < steps:
            continue
        print(f"{len(returns)} episodes, return of the last ones {np.mean(returns[-40:]):.2f}")
        was, done, odds, reward, lives, goes_on, valid = map(torch.stack, zip(*rows, strict=True))
        value = net(torch.cat([was, seen[None]]))[..., -1].detach()
        gains = [torch.zeros(len(seen))]  # generalised advantage estimation, from the end
        for t in reversed(range(steps)):
            error = reward[t] + gamma * lives[t] * value[t + 1] - value[t]
            gains.insert(0, error + gamma * 0.95 * goes_on[t] * gains[0])
        gain = torch.stack(gains[:-1])
        data = [x[valid] for x in (was, done, odds, gain, gain + value[:-1])]
        for part in (p for _ in range(10) for p in torch.randperm(len(data[0])).split(256)):
            was, done, odds, gain, target = (x[part] for x in data)
            policy = torch.distributions.Normal(net(was)[:, :-1], spread.exp())
            ratio = (policy.log_prob(done).sum(-1) - odds).exp()
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            loss = -torch.min(ratio * gain, ratio.clip(0.8, 1.2) * gain).mean()
            optimizer.zero_grad()
            (loss + 0.5 * (net(was)[:, -1] - target).square().mean()).backward()
            optimizer.step()
        updates, rows = updates - 1, []


def main(urls: tuple[str, ...] = (), /, *, smoke: bool = False) -> None:
    torch.manual_seed(1)
    torch.set_num_threads(1)  # the fastest, for a net of this size
    with contextlib.ExitStack() as stack:
        if not urls:
            arms = ServedRobots("arm", count=2 if smoke else 4, options=("--cameras", "none"))
            urls = stack.enter_context(arms)
        envs = stack.enter_context(gym.make_vec("remote_env:RemoteRobot-v0", urls=urls))
        envs = vector.RecordEpisodeStatistics(vector.FlattenObservation(envs))
        envs = vector.NormalizeObservation(vector.ClipAction(envs))
        learn(envs, updates=2 if smoke else 24, steps=64 if smoke else 256)


if __name__ == "__main__":
    tyro.cli(main)
