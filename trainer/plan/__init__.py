"""The planner: what a recipe needs in memory and time on given devices, and the cheapest way that fits.

shapes       the model's sizes, counted on the meta device, and the data's lengths
devices      the GPUs or cores a plan is for
activations  what the forward pass keeps for the backward pass
memory       weights, gradients, optimizer state and buffers, as DeepSpeed's optimizers really hold them
speed        seconds of an optimizer step
choose       the search, and the reasons
automatic    `engine.plan: auto`: a plan put into a run's recipe
"""

from trainer.plan.automatic import apply
from trainer.plan.choose import Option, Plan, make_plan, need
from trainer.plan.devices import Devices, given_gpus, seen_devices

__all__ = ["Devices", "Option", "Plan", "apply", "given_gpus", "make_plan", "need", "seen_devices"]
