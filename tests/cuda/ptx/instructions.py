# SPDX-License-Identifier: Apache-2.0
"""One PTX instruction as one C++ statement: what translate.py is made of.

What is not known here raises Unsupported: nothing is guessed.
"""

import re

INTEGER = {"s8": "std::int8_t", "s16": "std::int16_t", "s32": "std::int32_t", "s64": "std::int64_t",
           "u8": "std::uint8_t", "u16": "std::uint16_t", "u32": "std::uint32_t",
           "u64": "std::uint64_t", "b8": "std::uint8_t", "b16": "std::uint16_t",
           "b32": "std::uint32_t", "b64": "std::uint64_t"}
TYPE = INTEGER | {"f32": "float", "f64": "double", "pred": "bool"}
REGISTER = {"pred": "bool", "b16": "std::uint16_t", "b32": "std::uint32_t",
            "b64": "std::uint64_t", "f32": "float", "f64": "double"}
FLOATING = ("float", "double")
SPECIAL = {"%tid.x": "tid_x", "%ntid.x": "ntid_x", "%ctaid.x": "ctaid_x"}
ORDERED = {"eq": "{0} == {1}", "ne": "{0} < {1} || {0} > {1}", "lt": "{0} < {1}",
           "le": "{0} <= {1}", "gt": "{0} > {1}", "ge": "{0} >= {1}",
           "equ": "!({0} < {1} || {0} > {1})", "neu": "!({0} == {1})", "ltu": "!({0} >= {1})",
           "leu": "!({0} > {1})", "gtu": "!({0} <= {1})", "geu": "!({0} < {1})",
           "nan": "{0} != {0} || {1} != {1}", "num": "{0} == {0} && {1} == {1}"}
INTEGRAL = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
            "lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
SIGN = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^", "div": "/",
        "rem": "%"}


class Unsupported(Exception):
    pass


def unsigned(t):
    return TYPE["u" + t[1:]]


def reread(expression, source, to):
    """The bits of an expression of the C++ type `source` as type `to`: integers are cut to the low
    bits or extended by the sign of their type, floating point and integers are never converted."""
    if source == to:
        return expression
    if source in FLOATING or to in FLOATING:
        return f"__builtin_bit_cast({to}, {expression})"  # both must be of one size
    return f"{to}({expression})"


class Kernel:
    """The statements of one kernel."""

    def __init__(self, name, names_of_zero):
        self.name = name
        self.zero = names_of_zero  # symbols at address 0: parameters, dynamic shared memory
        self.registers = {}  # prefix of the names -> C++ type, count
        self.statements = []

    def register(self, text):
        match = re.fullmatch(r"%([a-z]+)(\d+)", text)
        if not match or match[1] not in self.registers:
            raise Unsupported(f"register {text}")
        return f"{match[1]}[{match[2]}]"

    def kind(self, text):
        """The C++ type of a register."""
        return self.registers[re.match(r"%([a-z]+)", text)[1]][0]

    def value(self, text, t):
        text = text.strip()
        if text in SPECIAL:
            return reread(SPECIAL[text], "std::uint32_t", TYPE[t])
        if text.startswith("%"):
            return reread(self.register(text), self.kind(text), TYPE[t])
        if re.fullmatch(r"0[fF][0-9A-Fa-f]{8}", text):
            return reread(f"0x{text[2:]}u", "std::uint32_t", TYPE[t])
        if re.fullmatch(r"0[dD][0-9A-Fa-f]{16}", text):
            return reread(f"0x{text[2:]}ull", "std::uint64_t", TYPE[t])
        if re.fullmatch(r"-?(0x[0-9A-Fa-f]+|\d+)U?", text):
            number = text.rstrip("U")
            if number == "-9223372036854775808":
                return f"{TYPE[t]}(INT64_MIN)"
            return f"{TYPE[t]}({number}{'ull' if int(number, 0) > 2**63 - 1 else 'll'})"
        if text in self.zero:
            return f"{TYPE[t]}(0)"
        raise Unsupported(f"operand {text}")

    def address(self, text, space, size, line):
        match = re.fullmatch(r"\[\s*([%\w.$]+)\s*(?:\+\s*(-?\d+))?\s*\]", text.strip())
        if not match:
            raise Unsupported(f"address {text}")
        base, offset = match[1], int(match[2] or 0)
        if space == "param":
            start = self.register(base) if base.startswith("%") else "0"
            if not base.startswith("%") and base not in self.zero:
                raise Unsupported(f"address {text}")
            return f"const_cast<char*>(parameters + {start} + {offset})"
        if space == "shared":
            start = self.register(base) if base.startswith("%") else self.value(base, "u32")
            return (f"in_shared<{size}>(t.shared, t.shared_bytes, "
                    f"static_cast<std::uint32_t>({start} + {offset}), {line})")
        if space in ("global", "generic"):  # a generic address of shared memory is a pointer too
            return f"reinterpret_cast<char*>({self.register(base)} + {offset})"
        raise Unsupported(f"state space {space}")

    def instruction(self, opcode, operands, line):
        parts = opcode.split(".")
        o, t = parts[0], parts[-1]
        handler = getattr(self, "op_" + o, None)
        if handler is not None:
            return handler(parts, t, operands, line)
        if o in SIGN and t in TYPE:
            return self.arithmetic(o, parts, t, operands)
        raise Unsupported(opcode)

    def arithmetic(self, o, parts, t, operands):
        if o == "mul" and parts[1] in ("wide", "hi", "lo"):
            a, b = (self.value(x, t) for x in operands[1:])
            if parts[1] == "wide":
                wide = {"s32": "std::int64_t", "u32": "std::uint64_t", "s16": "std::int32_t",
                        "u16": "std::uint32_t"}[t]
                return self.put(operands[0], wide, f"{wide}({a}) * {wide}({b})")
            if parts[1] == "hi":
                wide = {"s32": "std::int64_t", "u32": "std::uint64_t", "s64": "__int128",
                        "u64": "unsigned __int128"}[t]
                return self.put(operands[0], TYPE[t], f"(({wide}){a} * ({wide}){b}) >> {t[1:]}")
            u = unsigned(t)
            return self.put(operands[0], u, f"{u}({a}) * {u}({b})")
        if t == "pred":
            a, b = (self.value(x, t) for x in operands[1:])
            return self.put(operands[0], "bool", f"{a} {SIGN[o]} {b}")
        a, b = (self.value(x, t) for x in operands[1:])
        modifiers = parts[1:-1]
        if t[0] == "f":
            if any(m not in ("rn", "ftz") for m in modifiers) or "approx" in modifiers:
                raise Unsupported(".".join(parts))
            return self.put(operands[0], TYPE[t], f"{a} {SIGN[o]} {b}")
        if modifiers:
            raise Unsupported(".".join(parts))
        if t[0] == "s" and o in ("add", "sub"):
            u = unsigned(t)
            return self.put(operands[0], u, f"{u}({a}) {SIGN[o]} {u}({b})")
        return self.put(operands[0], TYPE[t], f"{a} {SIGN[o]} {b}")

    def put(self, target, kind, expression):
        """Assigns an expression as the C++ type `kind`, extended to the register by its sign."""
        register, holds = self.register(target), self.kind(target)
        if kind != holds:
            expression = reread(f"{kind}({expression})", kind, holds)
        return f"{register} = {expression};"

    # --- memory -----------------------------------------------------------------------------------
    def access(self, parts, t, operands, line, is_load):
        space = next((p for p in parts if p in ("global", "shared", "param")), "generic")
        known = {"ld", "st", "global", "shared", "param", "v2", "v4", "nc", t}
        if any(p not in known for p in parts):
            raise Unsupported(".".join(parts))
        count = next((int(p[1]) for p in parts if re.fullmatch(r"v[24]", p)), 1)
        registers, memory = (operands[0], operands[1]) if is_load else (operands[1], operands[0])
        names = vector(registers)
        if len(names) != count:
            raise Unsupported(f"{len(names)} registers for {count}")
        size = count * {"8": 1, "16": 2, "32": 4, "64": 8}[t[1:]]
        statement = (f"{{ char* const p = aligned<{TYPE[t]}, {count}>("
                     f"{self.address(memory, space, size, line)}, {line});")
        for i, name in enumerate(names):
            place = f"reinterpret_cast<{TYPE[t]}*>(p)[{i}]"
            if is_load:
                statement += " " + self.put(name, TYPE[t], place)
            else:
                statement += f" {place} = {self.value(name, t)};"
        return statement + " }"

    def op_ld(self, parts, t, operands, line):
        return self.access(parts, t, operands, line, True)

    def op_st(self, parts, t, operands, line):
        return self.access(parts, t, operands, line, False)

    def op_cvta(self, parts, t, operands, line):
        if "shared" not in parts:
            return self.put(operands[0], TYPE[t], self.value(operands[1], t))
        base = "reinterpret_cast<std::uint64_t>(t.shared)"
        sign = "-" if "to" in parts else "+"
        return self.put(operands[0], TYPE[t], f"{self.value(operands[1], t)} {sign} {base}")

    def op_cp(self, parts, t, operands, line):
        text = ".".join(parts)
        if text == "cp.async.commit_group":
            return "t.context.commit_copies();"
        if text == "cp.async.wait_group":
            return f"t.context.wait_copies<{int(operands[0])}>();"
        if text == "cp.async.cg.shared.global" and operands[2] == "16":
            to, source = (re.fullmatch(r"\[(%\w+)\]", x)[1] for x in operands[:2])
            return (f"t.copy_async({self.value(to, 'u32')}, {self.value(source, 'u64')}, "
                    f"{self.value(operands[3], 'u32')}, {line});")
        raise Unsupported(text)

    # --- moves and conversions --------------------------------------------------------------------
    def op_mov(self, parts, t, operands, line):
        if operands[1].startswith("{"):
            low, high = vector(operands[1])
            half, width = {"b32": ("u16", 16), "b64": ("u32", 32)}[t]
            whole = TYPE[t]
            return self.put(operands[0], whole, f"{whole}({self.value(low, half)}) | "
                                                f"({whole}({self.value(high, half)}) << {width})")
        if operands[0].startswith("{"):
            low, high = vector(operands[0])
            half, width = {"b32": ("u16", 16), "b64": ("u32", 32)}[t]
            whole = self.value(operands[1], t)
            return " ".join(self.put(name, TYPE[half], f"{whole} >> {shift}")
                            for name, shift in ((low, 0), (high, width)) if name != "_")
        return self.put(operands[0], TYPE[t], self.value(operands[1], t))

    def op_cvt(self, parts, t, operands, line):
        to, source = parts[-2], parts[-1]
        modifiers = tuple(parts[1:-2])
        half = {"f16": "zerotune::float16", "bf16": "zerotune::bfloat16"}
        if to in half and source == "f32" and modifiers == ("rn",):
            return self.put(operands[0], "std::uint16_t",
                            f"{half[to]}({self.value(operands[1], 'f32')}).bits")
        if to[:-2] in half and to.endswith("x2") and source == "f32" and modifiers == ("rn",):
            high, low = (f"std::uint32_t({half[to[:-2]]}({self.value(x, 'f32')}).bits)"
                         for x in operands[1:])
            return self.put(operands[0], "std::uint32_t", f"{low} | ({high} << 16)")
        if source in half and to == "f32" and not modifiers:
            return self.put(operands[0], "float", f"static_cast<float>({half[source]}::from_bits("
                                                  f"{self.value(operands[1], 'u16')}))")
        a = self.value(operands[1], source)
        if to == source == "f32":
            if modifiers == ("sat",):
                return self.put(operands[0], "float", f"saturate({a})")
            if modifiers == ("rni",):
                return self.put(operands[0], "float", f"std::nearbyintf({a})")
        elif to in ("f32", "f64") and (source in INTEGER and modifiers == ("rn",)
                                       or to == "f64" and source == "f32" and not modifiers
                                       or to == "f32" and source == "f64" and modifiers == ("rn",)):
            return self.put(operands[0], TYPE[to], a)
        elif to in INTEGER and source in INTEGER and not modifiers:
            return self.put(operands[0], TYPE[to], a)
        raise Unsupported(".".join(parts))

    # --- comparison and choice --------------------------------------------------------------------
    def op_setp(self, parts, t, operands, line):
        if len(operands) != 3 or len(parts) > 4 or len(parts) == 4 and parts[2] != "ftz":
            raise Unsupported(".".join(parts))
        a, b = (self.value(x, t) for x in operands[1:])
        if t[0] == "f":
            return self.put(operands[0], "bool", ORDERED[parts[1]].format(a, b))
        return self.put(operands[0], "bool", f"{a} {INTEGRAL[parts[1]]} {b}")

    def op_selp(self, parts, t, operands, line):
        a, b = (self.value(x, t) for x in operands[1:3])
        return self.put(operands[0], TYPE[t], f"{self.register(operands[3])} ? {a} : {b}")

    # --- control ----------------------------------------------------------------------------------
    def op_bra(self, parts, t, operands, line):
        return f"goto {operands[0].lstrip('$')};"

    def op_ret(self, parts, t, operands, line):
        return "return;"

    def op_bar(self, parts, t, operands, line):
        if parts[1] == "warp":
            mask = self.value(operands[0], "u32")
            return f"check_mask({mask}, {line}); t.context.warp_barrier({line});"
        if parts[1] != "sync" or operands != ["0"]:
            raise Unsupported(".".join(parts))
        return f"t.context.barrier({line});"

    # --- collectives ------------------------------------------------------------------------------
    def op_shfl(self, parts, t, operands, line):
        mode = parts[2]
        if mode not in ("bfly", "idx"):
            raise Unsupported(".".join(parts))
        value, operand, clamp, mask = (self.value(x, "u32") for x in operands[1:])
        target = operands[0].split("|")[0]
        return self.put(target, "std::uint32_t",
                        f"t.shuffle({value}, {operand}, {clamp}, {mask}, "
                        f"{'true' if mode == 'bfly' else 'false'}, {line})")

    def op_ldmatrix(self, parts, t, operands, line):
        text = ".".join(parts)
        trans = text == "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"
        if not trans and text != "ldmatrix.sync.aligned.m8n8.x4.shared.b16":
            raise Unsupported(text)
        row = re.fullmatch(r"\[(%\w+)\]", operands[1])[1]
        puts = " ".join(self.put(name, "std::uint32_t", f"r_[{i}]")
                        for i, name in enumerate(vector(operands[0])))
        return (f"{{ std::uint32_t r_[4]; t.load_matrices<{'true' if trans else 'false'}>(r_, "
                f"{self.value(row, 'u32')}, {line}); {puts} }}")

    def op_mma(self, parts, t, operands, line):
        text = ".".join(parts)
        match = re.fullmatch(r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.(b?f16)\.\1\.f32", text)
        if not match:
            raise Unsupported(text)
        d, a, b, c = (vector(x) for x in operands)
        element = {"f16": "zerotune::float16", "bf16": "zerotune::bfloat16"}[match[1]]
        join = lambda names, kind: ", ".join(self.value(x, kind) for x in names)
        puts = " ".join(self.put(name, "float", f"d_[{i}]") for i, name in enumerate(d))
        return (f"{{ float d_[4] = {{{join(c, 'f32')}}}; const std::uint32_t a_[4] = "
                f"{{{join(a, 'u32')}}}, b_[2] = {{{join(b, 'u32')}}}; "
                f"t.context.mma<{element}>(d_, a_, b_, {line}); {puts} }}")

    # --- arithmetic that is more than a sign ------------------------------------------------------
    def op_fma(self, parts, t, operands, line):
        a, b, c = (self.value(x, t) for x in operands[1:])
        rounding = parts[1]
        if rounding == "rn":
            name = {"f32": "__builtin_fmaf", "f64": "__builtin_fma"}[t]
            return self.put(operands[0], TYPE[t], f"{name}({a}, {b}, {c})")
        if rounding == "rm" and t == "f32":
            return self.put(operands[0], "float", f"fma_down({a}, {b}, {c})")
        raise Unsupported(".".join(parts))

    def op_mad(self, parts, t, operands, line):
        if parts[1] != "lo":
            raise Unsupported(".".join(parts))
        a, b, c = (f"{unsigned(t)}({self.value(x, t)})" for x in operands[1:])
        return self.put(operands[0], unsigned(t), f"{a} * {b} + {c}")

    def extreme(self, parts, t, operands):
        a, b = (self.value(x, t) for x in operands[1:])
        name = "std::f" + parts[0] if t[0] == "f" else "std::" + parts[0]
        if len(parts) > 2:
            raise Unsupported(".".join(parts))
        return self.put(operands[0], TYPE[t], f"{name}({a}, {b})")

    def op_min(self, parts, t, operands, line):
        return self.extreme(parts, t, operands)

    def op_max(self, parts, t, operands, line):
        return self.extreme(parts, t, operands)

    def op_shl(self, parts, t, operands, line):
        a, s = self.value(operands[1], t), self.value(operands[2], "u32")
        width = t[1:]
        return self.put(operands[0], TYPE[t],
                        f"{s} < {width}u ? {a} << ({s} & {int(width) - 1}u) : 0")

    def op_shr(self, parts, t, operands, line):
        a, s = self.value(operands[1], t), self.value(operands[2], "u32")
        width = t[1:]
        fill = f"({a} < 0 ? -1 : 0)" if t[0] == "s" else "0"
        return self.put(operands[0], TYPE[t],
                        f"{s} < {width}u ? {a} >> ({s} & {int(width) - 1}u) : {fill}")

    def op_not(self, parts, t, operands, line):
        a = self.value(operands[1], t)
        return self.put(operands[0], TYPE[t], ("!" if t == "pred" else "~") + a)

    def op_neg(self, parts, t, operands, line):
        a = self.value(operands[1], t)
        if t[0] == "f":
            return self.put(operands[0], TYPE[t], f"-{a}")
        return self.put(operands[0], unsigned(t), f"0u - {unsigned(t)}({a})")

    def op_abs(self, parts, t, operands, line):
        return self.put(operands[0], TYPE[t], f"std::abs({self.value(operands[1], t)})")

    def op_copysign(self, parts, t, operands, line):
        a, b = (self.value(x, t) for x in operands[1:])
        return self.put(operands[0], TYPE[t], f"std::copysign({b}, {a})")

    def op_ex2(self, parts, t, operands, line):
        return self.put(operands[0], TYPE[t], f"std::exp2({self.value(operands[1], t)})")

    def op_lg2(self, parts, t, operands, line):
        return self.put(operands[0], TYPE[t], f"std::log2({self.value(operands[1], t)})")

    def op_rcp(self, parts, t, operands, line):
        return self.put(operands[0], TYPE[t], f"1 / {self.value(operands[1], t)}")

    def op_tanh(self, parts, t, operands, line):
        return self.put(operands[0], TYPE[t], f"std::tanh({self.value(operands[1], t)})")

    def cpp(self):
        lines = [f"void {self.name}(lane& l, const char* parameters, std::size_t shared_bytes) {{",
                 "  thread t(l, shared_bytes);",
                 "  const std::uint32_t tid_x = std::uint32_t(l.thread), "
                 "ntid_x = std::uint32_t(l.threads), ctaid_x = std::uint32_t(l.block);",
                 "  static_cast<void>(parameters), static_cast<void>(tid_x), "
                 "static_cast<void>(ntid_x), static_cast<void>(ctaid_x);"]
        lines += [f"  {kind} {name}[{count}] = {{}};"
                  for name, (kind, count) in self.registers.items()]
        lines += ["  " + s for s in self.statements]
        return "\n".join(lines + ["}", ""])


def split(text):
    """Splits operands at commas outside braces and brackets."""
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character in "{[") - (character in "}]")
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    return [p for p in parts + [current.strip()] if p]


def vector(text):
    text = text.strip()
    return [x.strip() for x in text[1:-1].split(",")] if text.startswith("{") else [text]
