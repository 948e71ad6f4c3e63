"""Two processes that train together: they measure as one and apply the same action at once."""

import os
import sys
from pathlib import Path

import attune
import torch
import torch.multiprocessing as mp
from attune import measure
from attune.distributed import exchange, rank
from torch import distributed as dist


def leave():
    """Ends a rank without the interpreter's own end.

    PyTorch 2.13 keeps a process group's threads beyond destroy_process_group() once there was a
    DistributedDataParallel. One that lets go of a tensor while the interpreter ends aborts the
    process ("terminate called without an active exception"), without attune too: in 3 of 40 pairs
    of ranks whose threads were held up by up to 0.3 s.
    """
    dist.destroy_process_group()
    os._exit(0)


def rank_main(rank, folder, endpoint):
    sys.path.insert(0, str(Path(__file__).parent))
    from models import OwnModel

    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    inner = OwnModel()
    model = torch.nn.parallel.DistributedDataParallel(inner)
    handle = attune.attach(model, budget=attune.Budget.steps(10_000), endpoint=endpoint, fresh=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    generator = torch.Generator().manual_seed(rank)
    changed_at = None
    stop = torch.zeros(1)
    while not stop and handle.steps < 5000:
        loss = model(torch.randn(2, 20, 32, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if handle.step(loss):
            changed_at = handle.steps
        stop = torch.tensor([float(changed_at is not None and handle.steps > changed_at + 20)])
        dist.all_reduce(stop, dist.ReduceOp.MIN)
    torch.save(
        {
            "changed_at": changed_at,
            "setting": (list(handle.setting.scale), handle.setting.active),
            "weights": [parameter.detach() for parameter in inner.parameters()],
            "observed": handle.last_observation is not None,
        },
        f"{folder}/rank{rank}.pt",
    )
    handle.finish(1.0)
    leave()


def test_two_ranks_apply_the_same_action_at_the_same_step(tmp_path):
    from attune.protocol import ActionReply, ActionRequest, Bye, Hello, Observation, Welcome
    from daemon import Router
    from models import varied

    endpoint = f"ipc://{tmp_path}/socket"
    router = Router(endpoint)
    processes = mp.start_processes(
        rank_main, (str(tmp_path), endpoint), nprocs=2, join=False, start_method="spawn"
    )
    seen = []
    wanted = None
    while not (seen and isinstance(seen[-1], Bye)):
        message = router.receive(60_000)
        assert message is not None, "the trainers fell silent"
        seen.append(message)
        if isinstance(message, Hello) and wanted is None:
            # Nobody waited before the first step, so that the field alone says it.
            assert message.job.fresh
            assert message.step > 0
            wanted = varied(message.job.sites)
            router.send(Welcome(1, 3, 600.0))
            router.send(ActionRequest(7, 10**9, wanted))
    while not processes.join():
        pass
    router.close()

    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert first["changed_at"] == second["changed_at"]
    assert first["setting"] == second["setting"] == (list(wanted.scale), wanted.active)
    assert all(map(torch.equal, first["weights"], second["weights"]))
    assert (first["observed"], second["observed"]) == (True, False)
    replies = [message for message in seen if isinstance(message, ActionReply)]
    assert [reply.acknowledgement.step for reply in replies] == [first["changed_at"]]
    assert sum(isinstance(message, Hello) for message in seen) == 1
    observed = [message for message in seen if isinstance(message, Observation)]
    assert observed[-1].active == wanted.active
    # Processor seconds of both ranks.
    assert observed[-1].compute_seconds > 0


def merge_main(rank, folder):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    numbers = torch.zeros(2, measure.COLUMNS)
    numbers[0] = rank + 1.0  # measured on both ranks
    numbers[1] = 5.0 if rank else 0.0  # on the second alone
    setting = attune.Setting.neutral(2)
    setting.scale[1] = 1.15
    told = exchange(numbers, 2.0 + rank, 0.5, 10.0, 4 + rank, None if rank else setting)
    torch.save(tuple(told), f"{folder}/rank{rank}.pt")
    leave()


def test_before_there_is_a_process_group_a_rank_is_what_the_launcher_says(monkeypatch):
    for name, value, expected in [("RANK", "1", 0), ("WORLD_SIZE", "2", 1), ("RANK", "x", 0)]:
        monkeypatch.setenv(name, value)
        if name == "RANK" and value == "1":
            monkeypatch.delenv("WORLD_SIZE", raising=False)
        assert rank() == expected


def test_ranks_average_what_they_measured_and_learn_what_the_first_decided(tmp_path):
    mp.start_processes(merge_main, (str(tmp_path),), nprocs=2, start_method="spawn")
    load = torch.load
    options = {"weights_only": False} if "weights_only" in load.__doc__ else {}
    first, second = (load(tmp_path / f"rank{rank}.pt", **options) for rank in range(2))
    assert torch.equal(first[0], second[0])
    assert first[1:] == second[1:]
    numbers, loss, share, seconds, every, setting = first
    assert numbers[0, measure.IMPORTANCE] == 1.5
    assert numbers[0, measure.LARGEST_LOGIT] == 2.0
    assert numbers[1, measure.IMPORTANCE] == 5.0
    assert numbers[:, -1].tolist() == [2.0, 1.0]
    assert (loss, share, seconds, every) == (2.5, 0.5, 20.0, 4)
    expected = attune.Setting.neutral(2)
    expected.scale[1] = 1.15
    assert setting == expected


def test_one_process_alone_keeps_what_it_measured():
    numbers = torch.ones(2, measure.COLUMNS)
    told = exchange(numbers, 2.0, 0.5, 10.0, 4, None)
    assert told.numbers is numbers
    assert (told.loss, told.measure_every, told.setting) == (2.0, 4, None)
