/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fixture.h"
#include "qemu-args.h"

/* one word a line */
static char *words(const char *dir, const char *vm_name)
{
	struct config *config = load();
	const struct vm_config *vm = config_find_vm(config, vm_name);
	char **args, *text = NULL;
	struct layout layout;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	layout_make(config, vm, &layout);
	assert_int_equal(qemu_args(dir, vm, &layout, &args), 0);
	for (char **a = args; *a; a++)
		fprintf(f, "%s\n", *a);
	fclose(f);
	qemu_args_free(args);
	config_free(config);
	return text;
}

static void test_words(void **state)
{
	char *text;

	(void)state;
	put_example();
	put("region.d/all.conf", "");
	text = words("/run/x", "b");
	assert_string_equal(
		text,
		"-object\nmemory-backend-file,id=sivshm.table,mem-path=/run/x/vm/b/"
		"grants,size=8192,"
		"share=on,readonly=on\n"
		"-device\nivshmem-plain,memdev=sivshm.table,addr=0x4\n"
		"-chardev\nsocket,path=/run/x/vm/b/demo.sock,id=sivshm-demo\n"
		"-device\nivshmem-doorbell,chardev=sivshm-demo,vectors=4,addr=0x5\n"
		"-object\nmemory-backend-file,id=sivshm-demo.a,mem-path=/run/x/region/demo/a,"
		"size=4194304,share=on,readonly=on\n"
		"-device\nivshmem-plain,memdev=sivshm-demo.a,addr=0x6\n"
		"-chardev\nsocket,path=/run/x/vm/b/control.sock,id=sivshm-control,reconnect=1\n"
		"-device\nvirtio-serial-pci,id=sivshm-serial\n"
		"-device\nvirtserialport,bus=sivshm-serial.0,chardev=sivshm-control,"
		"name=org.sivshm.control.0\n");
	free(text);
}

static void test_commas(void **state)
{
	char *text;

	(void)state;
	put_example();
	text = words("/run/a,size=1", "b");
	assert_non_null(strstr(text, "mem-path=/run/a,,size=1/vm/b/grants,size=8192,"));
	free(text);
}

static void test_libvirt(void **state)
{
	const struct vm_config *vm;
	struct config *config;
	struct layout layout;
	char *xml;

	(void)state;
	put_example();
	config = load();
	vm = config_find_vm(config, "b");
	layout_make(config, vm, &layout);
	assert_int_equal(libvirt_xml("/run/'<&", vm, &layout, &xml), 0);
	assert_non_null(strstr(xml, "<server path='/run/&#39;&#60;&#38;/vm/b/demo.sock'/>"));
	assert_null(strstr(xml, "/run/'"));
	assert_non_null(strstr(xml, "<msi vectors='4' ioeventfd='on'/>"));
	free(xml);
	config_free(config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {CASE(test_words), CASE(test_commas), CASE(test_libvirt)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
