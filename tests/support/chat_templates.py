"""Chat templates for tests: short ones in the styles that models use, and hostile ones."""

# ruff: noqa: E501

STYLES = {
    "smollm2": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama-3": (
        "{{- bos_token }}\n{%- if messages[0]['role'] == 'system' %}\n"
        "    {%- set system_message = messages[0]['content']|trim %}\n    {%- set messages = messages[1:] %}\n"
        "{%- else %}\n    {%- set system_message = '' %}\n{%- endif %}\n"
        "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}\n"
        "{%- if tools is not none %}\n    {{- 'Environment: ipython\n' }}\n{%- endif %}\n"
        "{{- system_message ~ '<|eot_id|>' }}\n"
        "{%- for message in messages %}\n"
        "    {%- if message.role not in ['user', 'assistant'] %}{{ raise_exception('No role ' ~ message.role) }}{% endif %}\n"
        "    {{- '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\n\n' ~ message['content'] | trim }}\n"
        "    {{- '<|eot_id|>' }}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}\n{%- endif %}\n"
    ),
    "qwen2.5": (
        "{%- if tools %}\n    {{- '<|im_start|>system\n# Tools\n' }}\n"
        "    {%- for tool in tools %}\n        {{- '\n' }}\n        {{- tool | tojson }}\n    {%- endfor %}\n"
        "    {{- '<|im_end|>\n' }}\n{%- endif %}\n"
        "{%- set ns = namespace(last=-1) %}\n"
        "{%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n"
        "    {%- if ns.last < 0 and message.role == 'user' and message.content is string %}\n"
        "        {%- set ns.last = index %}\n    {%- endif %}\n{%- endfor %}\n"
        "{%- macro show(message) %}{{ '<|im_start|>' + message.role + '\n' + message.content }}{% endmacro %}\n"
        "{%- for message in messages %}\n"
        "    {%- if message.role == 'assistant' and '</think>' in message.content %}\n"
        "        {%- set content = message.content.split('</think>')[-1].lstrip('\n') %}\n"
        "        {{- '<|im_start|>assistant\n' + content }}\n"
        "    {%- elif loop.index0 == ns.last %}\n        {{- show(message) ~ ' (last)' }}\n"
        "    {%- else %}\n        {{- show(message) }}\n    {%- endif %}\n    {{- '<|im_end|>\n' }}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\n' }}\n{%- endif %}\n"
    ),
    "llama-2": (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
        "{% else %}{% generation %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    ),
    "dates and loops": (
        "{%- set today = strftime_now('%Y') %}{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}"
        "{{ m.content|replace('a', 'b')|upper }}|{{ [m.role, today|length]|join(',') }}|{% endfor %}"
        "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|list|tojson(indent=2) }}"
    ),
}

HOSTILE = {
    "product": "{{ 'x' * 10**9 }}",
    "product in a loop": "{% set ns = namespace(s='x'*1000) %}{% for i in range(9999) %}{% set ns.s = ns.s * 2 %}{% endfor %}",
    "big list": "{{ [0] * 10**9 }}",
    "format method, nested": "{{ '{:{}}'.format(1, 10**9) }}",
    "format method of a list": "{{ '{0[0]:999999}'.format(['x']) }}",
    "format_map": "{{ '{a}'.format_map({'a': 1}) }}",
    "wordwrap": "{{ ('x ' * 9999)|wordwrap(1, wrapstring='x' * 99999) }}",
    "round": "{{ 1.5|round(10**9, 'floor') }}",
    "batch": "{{ [1]|batch(10**9, 0)|list }}",
    "slice": "{{ [1]|slice(10**9)|list }}",
    "sum of lists": "{{ (range(19999)|batch(1)|list * 1)|sum(start=[])|length }}{% for a in range(9999) %}"
    "{% set x = range(9999)|batch(1)|sum(start=[]) %}{% endfor %}",
    "striptags": "{{ ('<!---->' * 30000)|striptags }}",
    "urlencode": "{{ ('%' * 200000)|urlencode|urlencode }}",
    "attributes by attr": "{{ ''|attr('__class__')|attr('__mro__') }}{{ raise_exception('no') }}",
    "center": "{{ 'x'|center(10**9) }}",
    "center method": "{{ 'x'.center(10**9) }}",
    "ljust": "{{ 'x'.ljust(1000000000) }}",
    "zfill": "{{ 'x'.zfill(1000000000) }}",
    "expandtabs": "{{ '\t'.expandtabs(1000000000) }}",
    "format width": "{{ '%1000000000d' % 1 }}",
    "format star": "{{ '%*d' % (1000000000, 1) }}",
    "format filter": "{{ '%1000000000d'|format(1) }}",
    "format method": "{{ '{:1000000000}'.format(1) }}",
    "format attributes": "{{ '{0.__class__.__mro__}'.format(1) }}",
    "many formats": "{{ ('%s' * 1000)|format('x') }}{{ '%(a)s' * 30000 % {'a': 'x' * 200000} }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "squares": "{% set ns = namespace(n=99) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "doubling by ~": "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "doubling by +": "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "doubling by join": "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s]|join %}{% endfor %}",
    "doubling lists": "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
    "doubling dicts": "{% set ns = namespace(s={}) %}{% for i in range(60) %}{% set ns.s = dict(a=ns.s, b=ns.s) %}{% endfor %}{{ ns.s|tojson }}",
    "doubling replace": "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s|replace('x', 'xx') %}{% endfor %}",
    "doubling method": "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s.replace('x', 'xx') %}{% endfor %}",
    "doubling macro": "{% macro m(s) %}{{ s }}{{ s }}{% endmacro %}{{ " + "m(" * 40 + "'xxxx'" + ")" * 40 + " }}",
    "doubling block set": "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}"
    "{% set ns.s = t %}{% endfor %}",
    "namespaces": "{% set a = namespace() %}{% set a.a = a %}{% set b = namespace(x=a, y=a) %}{{ b }}{{ [a, b]|string }}"
    "{% for i in range(100000) %}{% endfor %}",
    "nested loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
    "nested maps": "{{ range(9999)|map('string')|list }}{% for a in range(9999) %}{% set x = range(9999)|map('string')|list %}{% endfor %}",
    "long range": "{% for a in range(10**12) %}{% endfor %}",
    "long output": "{% for a in range(19999) %}{{ 'x' * 10000 }}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "double recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive loop": "{% for a in [[1]] recursive %}{{ loop([a, a]) }}{% endfor %}",
    "many strings": "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = ns.l + ['x' * 100000 ~ i] %}{% endfor %}",
    "many slices": "{% set s = 'x' * 200000 %}{% set ns = namespace(l=[]) %}"
    "{% for i in range(9999) %}{% set ns.l = ns.l + [s[i:]] %}{% endfor %}",
    "indent": "{{ '\n'|indent(10**9) }}",
    "json indent": "{{ [[[[1]]]]|tojson(indent=10**9) }}",
    "strftime": "{{ strftime_now('%1000000000d') }}",
    "internals": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "internals of a function": "{{ raise_exception.__globals__ }}",
    "internals of a macro": "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "internals by getitem": "{{ ''['__class__']['__base__'] }}",
    "internals of a loop": "{% for a in [1] %}{{ loop.__class__.__init__.__globals__ }}{% endfor %}",
    "internals by map": "{{ ['']|map(attribute='__class__')|first|string + raise_exception('no') }}",
    "internals of self": "{{ self._TemplateReference__context.environment }}{{ self.__init__.__globals__ }}",
    "mutation": "{{ messages.append(1) }}",
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
    "unknown filter": "{{ 'x'|pprint }}",
    "broken": "{% for %}",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep lists": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "deep ifs": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "compares": "{% set a = 'x' * 200000 %}{% for i in range(9999) %}{{ (a ~ i) in ["
    + "a," * 9000
    + "] }}{% endfor %}",
}
