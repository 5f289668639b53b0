"""What chips have room for."""

from dataclasses import dataclass

# Of edge_mnist.c on Cortex-M0 with -Os, without the tables: measured with arm-none-eabi-size
# (GCC 12.2); see docs/results.md. What a network needs besides convolutions is added by kind.
CODE_BYTES = 1500
KIND_BYTES = {
    "depthwise": 450,
    "maxpool": 300,
    "averagepool": 1000,
    "globalaveragepool": 200,
    "add": 400,
    "lookup": 60,
}
STACK_BYTES = 420
IMAGE_BYTES = 784


@dataclass(frozen=True)
class Chip:
    """A microcontroller as it is sold.

    Attributes:
        name: Its name, and the processor.
        flash_bytes: Program memory.
        ram_bytes: Data memory that a program has; with ESP chips what their firmware leaves.
        code_factor: Size of its code beside that of Cortex-M0, measured with GCC and -Os.
        max_table_bytes: The largest array of constants that its compiler takes.
    """

    name: str
    flash_bytes: int
    ram_bytes: int
    code_factor: float = 1.0
    max_table_bytes: int = 2**31


@dataclass(frozen=True)
class Fit:
    """Whether a model has room on a chip.

    Attributes:
        chip: Its name.
        flash_left_bytes: What is left of the flash; negative if it does not fit.
        ram_left_bytes: What is left of the RAM, after scratch, image and stack.
        fits: Whether both are left, and the weights are no larger than the compiler takes.
    """

    chip: str
    flash_left_bytes: int
    ram_left_bytes: int
    fits: bool


AVR_TABLE_BYTES = 32_767  # avr-gcc's differences of pointers have 16 bits
CHIPS = (
    Chip("RP2040 (Cortex-M0+)", 2_097_152, 270_336),
    Chip("ATmega328 (AVR)", 32_768, 2_048, 2.9, AVR_TABLE_BYTES),
    Chip("ATmega2560 (AVR)", 262_144, 8_192, 2.9, AVR_TABLE_BYTES),
    Chip("STM32F030C8 (Cortex-M0)", 65_536, 8_192),
    Chip("STM32F103C8 (Cortex-M3)", 65_536, 20_480),
    Chip("STM32F411CE (Cortex-M4)", 524_288, 131_072),
    Chip("STM32H743ZI (Cortex-M7)", 2_097_152, 1_048_576),
    Chip("nRF52840 (Cortex-M4)", 1_048_576, 262_144),
    Chip("ESP32-C3 (RV32IMC)", 4_194_304, 327_680, 1.2),
    Chip("ESP8266 (Xtensa)", 1_048_576, 51_200, 1.2),
    Chip("CH32V003 (RV32EC)", 16_384, 2_048, 1.2),
    Chip("GD32VF103CB (RV32IMAC)", 131_072, 32_768, 1.2),
    Chip("16 kB / 4 kB (Cortex-M0+)", 16_384, 4_096),
)


def estimate_code_bytes(kinds: set[str]) -> int:
    """Return the size of the code on Cortex-M0 for a network with layers of these kinds."""
    return CODE_BYTES + sum(KIND_BYTES.get(kind, 0) for kind in kinds)


def fit_chips(
    *, code_bytes: int, constant_bytes: int, weights_bytes: int, ram_bytes: int
) -> tuple[Fit, ...]:
    """Tell for each chip how much it has left.

    Args:
        code_bytes: On Cortex-M0.
        constant_bytes: Weights and tables.
        weights_bytes: The weights alone, which are one array.
        ram_bytes: Scratch, image, scores and stack.
    """
    fits = []
    for chip in CHIPS:
        flash = chip.flash_bytes - constant_bytes - round(code_bytes * chip.code_factor)
        ram = chip.ram_bytes - ram_bytes
        is_taken = weights_bytes <= chip.max_table_bytes
        fits.append(Fit(chip.name, flash, ram, flash >= 0 and ram >= 0 and is_taken))
    return tuple(fits)
